"""The words of the mini corpus's grammar in English, German, French and Spanish.

One line an entry, one field a language, separated by semicolons: English; German; French; Spanish.
"""

from typing import NamedTuple

LANGUAGES = ("en", "de", "fr", "es")


class Phrase(NamedTuple):
    """The same words in the four languages."""

    en: str = ""
    de: str = ""
    fr: str = ""
    es: str = ""


class Noun(NamedTuple):
    """Singular and plural by language, and the gender (m, f; German also n) in German, French and Spanish."""

    singular: Phrase
    plural: Phrase
    gender: Phrase


class Adjective(NamedTuple):
    """English and German: one form (German endings are added); French and Spanish: m, f, m plural, f plural."""

    en: str
    de: str
    fr: tuple[str, ...]
    es: tuple[str, ...]
    before_noun_fr: bool
    estar: bool  # Spanish uses estar, not ser, for this state


class Verb(NamedTuple):
    """infinitive: of all languages. present: for persons 1s, 3s, 1p, 3p. past: English past, German and French
    participle (both with 'have'), Spanish preterite for the four persons."""

    infinitive: Phrase
    present: dict[str, tuple[str, ...]]
    past_en: str
    participle_de: str
    participle_fr: str
    past_es: tuple[str, ...]


def _fields(table: str) -> list[list[str]]:
    return [[field.strip() for field in line.split(";")] for line in table.strip().splitlines()]


def _nouns(table: str) -> list[Noun]:
    """Lines of 'sg|pl; g|sg|pl; g|sg|pl; g|sg|pl'; the plural may be left out of nouns used in the singular only."""
    nouns = []
    for line in _fields(table):
        en, de, fr, es = (field.split("|") for field in line)
        forms = [en, de[1:], fr[1:], es[1:]]
        singular, plural = Phrase(*(f[0] for f in forms)), Phrase(*(f[-1] for f in forms))
        nouns.append(Noun(singular, plural, Phrase("", de[0], fr[0], es[0])))
    return nouns


def _forms(field: str) -> tuple[str, ...]:
    """Four forms from four or one (invariable), or from 'm|f' with a regular plural."""
    forms = field.split("|")
    if len(forms) == 2:
        forms += [form if form[-1] in "sx" else form + "s" for form in forms]
    return tuple(forms * 4 if len(forms) == 1 else forms)


def _adjectives(table: str) -> list[Adjective]:
    """French '<' : stands before its noun. Spanish '*' : takes estar."""
    return [
        Adjective(en, de, _forms(fr.lstrip("<")), _forms(es.lstrip("*")), fr[0] == "<", es[0] == "*")
        for en, de, fr, es in _fields(table)
    ]


def _verbs(table: str) -> dict[str, Verb]:
    """English 'base,3s,past'; German 'infinitive,ich,er,participle'; French 'infinitive,je,il,nous,ils,participle';
    Spanish 'infinitive,yo,él,nosotros,ellos,' and the preterite of the same four persons."""
    verbs = {}
    for line in _fields(table):
        en, de, fr, es = (field.split(",") for field in line)
        present = {"en": (en[0], en[1], en[0], en[0]), "de": (de[1], de[2], de[0], de[0])}
        present |= {"fr": tuple(fr[1:5]), "es": tuple(es[1:5])}
        infinitive = Phrase(en[0], de[0], fr[0], es[0])
        verbs[en[0]] = Verb(infinitive, present, en[2], de[3], fr[5], tuple(es[5:9]))
    return verbs


def _phrases(table: str) -> list[Phrase]:
    return [Phrase(*line) for line in _fields(table)]


THINGS = _nouns("""
book|books; n|Buch|Bücher; m|livre|livres; m|libro|libros
letter|letters; m|Brief|Briefe; f|lettre|lettres; f|carta|cartas
ticket|tickets; f|Fahrkarte|Fahrkarten; m|billet|billets; m|billete|billetes
key|keys; m|Schlüssel|Schlüssel; f|clé|clés; f|llave|llaves
suitcase|suitcases; m|Koffer|Koffer; f|valise|valises; f|maleta|maletas
bag|bags; f|Tasche|Taschen; m|sac|sacs; f|bolsa|bolsas
car|cars; n|Auto|Autos; f|voiture|voitures; m|coche|coches
bicycle|bicycles; n|Fahrrad|Fahrräder; m|vélo|vélos; f|bicicleta|bicicletas
phone|phones; n|Telefon|Telefone; m|téléphone|téléphones; m|teléfono|teléfonos
computer|computers; m|Computer|Computer; m|ordinateur|ordinateurs; m|ordenador|ordenadores
table|tables; m|Tisch|Tische; f|table|tables; f|mesa|mesas
chair|chairs; m|Stuhl|Stühle; f|chaise|chaises; f|silla|sillas
lamp|lamps; f|Lampe|Lampen; f|lampe|lampes; f|lámpara|lámparas
picture|pictures; n|Bild|Bilder; f|image|images; f|imagen|imágenes
map|maps; f|Landkarte|Landkarten; f|carte|cartes; m|mapa|mapas
newspaper|newspapers; f|Zeitung|Zeitungen; m|journal|journaux; m|periódico|periódicos
coat|coats; m|Mantel|Mäntel; m|manteau|manteaux; m|abrigo|abrigos
shirt|shirts; n|Hemd|Hemden; f|chemise|chemises; f|camisa|camisas
hat|hats; m|Hut|Hüte; m|chapeau|chapeaux; m|sombrero|sombreros
watch|watches; f|Uhr|Uhren; f|montre|montres; m|reloj|relojes
camera|cameras; f|Kamera|Kameras; m|appareil photo|appareils photo; f|cámara|cámaras
bottle|bottles; f|Flasche|Flaschen; f|bouteille|bouteilles; f|botella|botellas
glass|glasses; n|Glas|Gläser; m|verre|verres; m|vaso|vasos
knife|knives; n|Messer|Messer; m|couteau|couteaux; m|cuchillo|cuchillos
box|boxes; f|Kiste|Kisten; f|boîte|boîtes; f|caja|cajas
gift|gifts; n|Geschenk|Geschenke; m|cadeau|cadeaux; m|regalo|regalos
passport|passports; m|Pass|Pässe; m|passeport|passeports; m|pasaporte|pasaportes
umbrella|umbrellas; m|Regenschirm|Regenschirme; m|parapluie|parapluies; m|paraguas|paraguas
flower|flowers; f|Blume|Blumen; f|fleur|fleurs; f|flor|flores
""")

ANIMALS = _nouns("""
dog|dogs; m|Hund|Hunde; m|chien|chiens; m|perro|perros
cat|cats; f|Katze|Katzen; m|chat|chats; m|gato|gatos
horse|horses; n|Pferd|Pferde; m|cheval|chevaux; m|caballo|caballos
bird|birds; m|Vogel|Vögel; m|oiseau|oiseaux; m|pájaro|pájaros
""")

FOODS = _nouns("""
apple|apples; m|Apfel|Äpfel; f|pomme|pommes; f|manzana|manzanas
cake|cakes; m|Kuchen|Kuchen; m|gâteau|gâteaux; m|pastel|pasteles
egg|eggs; n|Ei|Eier; m|œuf|œufs; m|huevo|huevos
sausage|sausages; f|Wurst|Würste; f|saucisse|saucisses; f|salchicha|salchichas
tomato|tomatoes; f|Tomate|Tomaten; f|tomate|tomates; m|tomate|tomates
potato|potatoes; f|Kartoffel|Kartoffeln; f|pomme de terre|pommes de terre; f|patata|patatas
orange|oranges; f|Orange|Orangen; f|orange|oranges; f|naranja|naranjas
soup|soups; f|Suppe|Suppen; f|soupe|soupes; f|sopa|sopas
""")

PEOPLE = _nouns("""
doctor|doctors; m|Arzt|Ärzte; m|médecin|médecins; m|médico|médicos
teacher|teachers; m|Lehrer|Lehrer; m|professeur|professeurs; m|profesor|profesores
sister|sisters; f|Schwester|Schwestern; f|sœur|sœurs; f|hermana|hermanas
brother|brothers; m|Bruder|Brüder; m|frère|frères; m|hermano|hermanos
mother|mothers; f|Mutter|Mütter; f|mère|mères; f|madre|madres
father|fathers; m|Vater|Väter; m|père|pères; m|padre|padres
friend|friends; m|Freund|Freunde; m|ami|amis; m|amigo|amigos
woman|women; f|Frau|Frauen; f|femme|femmes; f|mujer|mujeres
man|men; m|Mann|Männer; m|homme|hommes; m|hombre|hombres
child|children; n|Kind|Kinder; m|enfant|enfants; m|niño|niños
boss|bosses; m|Chef|Chefs; m|chef|chefs; m|jefe|jefes
manager|managers; m|Leiter|Leiter; m|directeur|directeurs; m|director|directores
driver|drivers; m|Fahrer|Fahrer; m|chauffeur|chauffeurs; m|conductor|conductores
singer|singers; m|Sänger|Sänger; m|chanteur|chanteurs; m|cantante|cantantes
guest|guests; m|Gast|Gäste; m|invité|invités; m|invitado|invitados
daughter|daughters; f|Tochter|Töchter; f|fille|filles; f|hija|hijas
son|sons; m|Sohn|Söhne; m|fils|fils; m|hijo|hijos
""")

# Something can be there, or happen there; to the first twelve one can also travel.
PLACES = _nouns("""
library; f|Bibliothek; f|bibliothèque; f|biblioteca
hotel; n|Hotel; m|hôtel; m|hotel
museum; n|Museum; m|musée; m|museo
restaurant; n|Restaurant; m|restaurant; m|restaurante
park; m|Park; m|parc; m|parque
hospital; n|Krankenhaus; m|hôpital; m|hospital
theater; n|Theater; m|théâtre; m|teatro
church; f|Kirche; f|église; f|iglesia
bank; f|Bank; f|banque; m|banco
train station; m|Bahnhof; f|gare; f|estación
airport; m|Flughafen; m|aéroport; m|aeropuerto
supermarket; m|Supermarkt; m|supermarché; m|supermercado
office; n|Büro; m|bureau; f|oficina
school; f|Schule; f|école; f|escuela
classroom; n|Klassenzimmer; f|salle de classe; f|aula
kitchen; f|Küche; f|cuisine; f|cocina
garden; m|Garten; m|jardin; m|jardín
city; f|Stadt; f|ville; f|ciudad
room; n|Zimmer; f|chambre; f|habitación
""")
DESTINATIONS = PLACES[:12]

EVENTS = _nouns("""
meeting; f|Besprechung; f|réunion; f|reunión
concert; n|Konzert; m|concert; m|concierto
movie; m|Film; m|film; f|película
course; m|Kurs; m|cours; m|curso
game; n|Spiel; m|match; m|partido
party; f|Feier; f|fête; f|fiesta
conference; f|Konferenz; f|conférence; f|conferencia
journey; f|Reise; m|voyage; m|viaje
dinner; n|Abendessen; m|dîner; f|cena
exam; f|Prüfung; m|examen; m|examen
""")

THING_ADJECTIVES = _adjectives("""
new; neu; <nouveau|nouvelle|nouveaux|nouvelles; nuevo|nueva
old; alt; <vieux|vieille; viejo|vieja
big; groß; <grand|grande; grande|grande
small; klein; <petit|petite; pequeño|pequeña
red; rot; rouge|rouge; rojo|roja
green; grün; vert|verte; verde|verde
blue; blau; bleu|bleue; azul|azul|azules|azules
black; schwarz; noir|noire; negro|negra
white; weiß; blanc|blanche; blanco|blanca
yellow; gelb; jaune|jaune; amarillo|amarilla
beautiful; schön; <beau|belle|beaux|belles; hermoso|hermosa
expensive; teuer; cher|chère; caro|cara
cheap; billig; bon marché; barato|barata
heavy; schwer; lourd|lourde; pesado|pesada
strange; seltsam; étrange|étrange; extraño|extraña
broken; kaputt; cassé|cassée; *roto|rota
modern; modern; moderne|moderne; moderno|moderna
clean; sauber; propre|propre; *limpio|limpia
""")
FOOD_ADJECTIVES = [a for a in THING_ADJECTIVES if a.en not in ("black", "broken", "modern", "clean", "new", "blue")]
ANIMAL_ADJECTIVES = [
    a for a in THING_ADJECTIVES if a.en in ("old", "big", "small", "black", "white", "beautiful", "strange", "clean")
]

PERSON_ADJECTIVES = _adjectives("""
young; jung; <jeune|jeune; joven|joven|jóvenes|jóvenes
tired; müde; fatigué|fatiguée; *cansado|cansada
happy; glücklich; heureux|heureuse; feliz|feliz|felices|felices
friendly; freundlich; aimable|aimable; amable|amable
sick; krank; malade|malade; *enfermo|enferma
famous; berühmt; célèbre|célèbre; famoso|famosa
rich; reich; riche|riche; rico|rica
old; alt; <vieux|vieille; viejo|vieja
""")

EVENT_ADJECTIVES = _adjectives("""
long; lang; <long|longue; largo|larga
short; kurz; court|courte; corto|corta
important; wichtig; important|importante; importante|importante
interesting; interessant; intéressant|intéressante; interesante|interesante
boring; langweilig; ennuyeux|ennuyeuse; aburrido|aburrida
difficult; schwierig; difficile|difficile; difícil|difícil|difíciles|difíciles
""")

THING_VERBS = _verbs("""
buy,buys,bought; kaufen,kaufe,kauft,gekauft; acheter,achète,achète,achetons,achètent,acheté; comprar,compro,compra,compramos,compran,compré,compró,compramos,compraron
sell,sells,sold; verkaufen,verkaufe,verkauft,verkauft; vendre,vends,vend,vendons,vendent,vendu; vender,vendo,vende,vendemos,venden,vendí,vendió,vendimos,vendieron
use,uses,used; benutzen,benutze,benutzt,benutzt; utiliser,utilise,utilise,utilisons,utilisent,utilisé; usar,uso,usa,usamos,usan,usé,usó,usamos,usaron
find,finds,found; finden,finde,findet,gefunden; trouver,trouve,trouve,trouvons,trouvent,trouvé; encontrar,encuentro,encuentra,encontramos,encuentran,encontré,encontró,encontramos,encontraron
forget,forgets,forgot; vergessen,vergesse,vergisst,vergessen; oublier,oublie,oublie,oublions,oublient,oublié; olvidar,olvido,olvida,olvidamos,olvidan,olvidé,olvidó,olvidamos,olvidaron
carry,carries,carried; tragen,trage,trägt,getragen; porter,porte,porte,portons,portent,porté; llevar,llevo,lleva,llevamos,llevan,llevé,llevó,llevamos,llevaron
see,sees,saw; sehen,sehe,sieht,gesehen; voir,vois,voit,voyons,voient,vu; ver,veo,ve,vemos,ven,vi,vio,vimos,vieron
show,shows,showed; zeigen,zeige,zeigt,gezeigt; montrer,montre,montre,montrons,montrent,montré; mostrar,muestro,muestra,mostramos,muestran,mostré,mostró,mostramos,mostraron
lose,loses,lost; verlieren,verliere,verliert,verloren; perdre,perds,perd,perdons,perdent,perdu; perder,pierdo,pierde,perdemos,pierden,perdí,perdió,perdimos,perdieron
clean,cleans,cleaned; putzen,putze,putzt,geputzt; nettoyer,nettoie,nettoie,nettoyons,nettoient,nettoyé; limpiar,limpio,limpia,limpiamos,limpian,limpié,limpió,limpiamos,limpiaron
pay for,pays for,paid for; bezahlen,bezahle,bezahlt,bezahlt; payer,paie,paie,payons,paient,payé; pagar,pago,paga,pagamos,pagan,pagué,pagó,pagamos,pagaron
get,gets,got; bekommen,bekomme,bekommt,bekommen; recevoir,reçois,reçoit,recevons,reçoivent,reçu; recibir,recibo,recibe,recibimos,reciben,recibí,recibió,recibimos,recibieron
order,orders,ordered; bestellen,bestelle,bestellt,bestellt; commander,commande,commande,commandons,commandent,commandé; pedir,pido,pide,pedimos,piden,pedí,pidió,pedimos,pidieron
steal,steals,stole; stehlen,stehle,stiehlt,gestohlen; voler,vole,vole,volons,volent,volé; robar,robo,roba,robamos,roban,robé,robó,robamos,robaron
paint,paints,painted; malen,male,malt,gemalt; peindre,peins,peint,peignons,peignent,peint; pintar,pinto,pinta,pintamos,pintan,pinté,pintó,pintamos,pintaron
check,checks,checked; prüfen,prüfe,prüft,geprüft; vérifier,vérifie,vérifie,vérifions,vérifient,vérifié; revisar,reviso,revisa,revisamos,revisan,revisé,revisó,revisamos,revisaron
""")  # noqa: E501
ANIMAL_VERBS = {name: THING_VERBS[name] for name in ("buy", "sell", "find", "see", "show", "lose", "paint", "carry")}

FOOD_VERBS = _verbs("""
eat,eats,ate; essen,esse,isst,gegessen; manger,mange,mange,mangeons,mangent,mangé; comer,como,come,comemos,comen,comí,comió,comimos,comieron
cook,cooks,cooked; kochen,koche,kocht,gekocht; cuisiner,cuisine,cuisine,cuisinons,cuisinent,cuisiné; cocinar,cocino,cocina,cocinamos,cocinan,cociné,cocinó,cocinamos,cocinaron
""") | {name: THING_VERBS[name] for name in ("buy", "order")}  # noqa: E501

PERSON_VERBS = _verbs("""
meet,meets,met; treffen,treffe,trifft,getroffen; rencontrer,rencontre,rencontre,rencontrons,rencontrent,rencontré; encontrar,encuentro,encuentra,encontramos,encuentran,encontré,encontró,encontramos,encontraron
greet,greets,greeted; begrüßen,begrüße,begrüßt,begrüßt; saluer,salue,salue,saluons,saluent,salué; saludar,saludo,saluda,saludamos,saludan,saludé,saludó,saludamos,saludaron
understand,understands,understood; verstehen,verstehe,versteht,verstanden; comprendre,comprends,comprend,comprenons,comprennent,compris; entender,entiendo,entiende,entendemos,entienden,entendí,entendió,entendimos,entendieron
ask,asks,asked; fragen,frage,fragt,gefragt; interroger,interroge,interroge,interrogeons,interrogent,interrogé; preguntar,pregunto,pregunta,preguntamos,preguntan,pregunté,preguntó,preguntamos,preguntaron
look for,looks for,looked for; suchen,suche,sucht,gesucht; chercher,cherche,cherche,cherchons,cherchent,cherché; buscar,busco,busca,buscamos,buscan,busqué,buscó,buscamos,buscaron
hear,hears,heard; hören,höre,hört,gehört; entendre,entends,entend,entendons,entendent,entendu; oír,oigo,oye,oímos,oyen,oí,oyó,oímos,oyeron
love,loves,loved; lieben,liebe,liebt,geliebt; aimer,aime,aime,aimons,aiment,aimé; amar,amo,ama,amamos,aman,amé,amó,amamos,amaron
""")  # noqa: E501

INTRANSITIVE_VERBS = _verbs("""
work,works,worked; arbeiten,arbeite,arbeitet,gearbeitet; travailler,travaille,travaille,travaillons,travaillent,travaillé; trabajar,trabajo,trabaja,trabajamos,trabajan,trabajé,trabajó,trabajamos,trabajaron
sleep,sleeps,slept; schlafen,schlafe,schläft,geschlafen; dormir,dors,dort,dormons,dorment,dormi; dormir,duermo,duerme,dormimos,duermen,dormí,durmió,dormimos,durmieron
eat,eats,ate; essen,esse,isst,gegessen; manger,mange,mange,mangeons,mangent,mangé; comer,como,come,comemos,comen,comí,comió,comimos,comieron
wait,waits,waited; warten,warte,wartet,gewartet; attendre,attends,attend,attendons,attendent,attendu; esperar,espero,espera,esperamos,esperan,esperé,esperó,esperamos,esperaron
dance,dances,danced; tanzen,tanze,tanzt,getanzt; danser,danse,danse,dansons,dansent,dansé; bailar,bailo,baila,bailamos,bailan,bailé,bailó,bailamos,bailaron
study,studies,studied; lernen,lerne,lernt,gelernt; étudier,étudie,étudie,étudions,étudient,étudié; estudiar,estudio,estudia,estudiamos,estudian,estudié,estudió,estudiamos,estudiaron
sing,sings,sang; singen,singe,singt,gesungen; chanter,chante,chante,chantons,chantent,chanté; cantar,canto,canta,cantamos,cantan,canté,cantó,cantamos,cantaron
""")  # noqa: E501

# Finite forms for persons 1s, 3s, 1p, 3p, each followed by an infinitive.
MODALS = {
    "want": (
        ("want to", "wants to", "want to", "want to"),
        ("will", "will", "wollen", "wollen"),
        ("veux", "veut", "voulons", "veulent"),
        ("quiero", "quiere", "queremos", "quieren"),
    ),
    "must": (
        ("must",) * 4,
        ("muss", "muss", "müssen", "müssen"),
        ("dois", "doit", "devons", "doivent"),
        ("debo", "debe", "debemos", "deben"),
    ),
    "can": (
        ("can",) * 4,
        ("kann", "kann", "können", "können"),
        ("peux", "peut", "pouvons", "peuvent"),
        ("puedo", "puede", "podemos", "pueden"),
    ),
    "will": (
        ("will",) * 4,
        ("werde", "wird", "werden", "werden"),
        ("vais", "va", "allons", "vont"),
        ("voy a", "va a", "vamos a", "van a"),
    ),
    "would like": (
        ("would like to",) * 4,
        ("möchte", "möchte", "möchten", "möchten"),
        ("voudrais", "voudrait", "voudrions", "voudraient"),
        ("quisiera", "quisiera", "quisiéramos", "quisieran"),
    ),
}

# Verbs with a that-clause in the indicative in all four languages.
SAYING = (
    (
        ("say", "says", "say", "say"),
        ("sage", "sagt", "sagen", "sagen"),
        ("dis", "dit", "disons", "disent"),
        ("digo", "dice", "decimos", "dicen"),
    ),
    (
        ("think", "thinks", "think", "think"),
        ("glaube", "glaubt", "glauben", "glauben"),
        ("pense", "pense", "pensons", "pensent"),
        ("creo", "cree", "creemos", "creen"),
    ),
    (
        ("know", "knows", "know", "know"),
        ("weiß", "weiß", "wissen", "wissen"),
        ("sais", "sait", "savons", "savent"),
        ("sé", "sabe", "sabemos", "saben"),
    ),
)

TRAVEL = _verbs("""
travel,travels,traveled; fahren,fahre,fährt,gefahren; aller,vais,va,allons,vont,allé; viajar,viajo,viaja,viajamos,viajan,viajé,viajó,viajamos,viajaron
""")["travel"]  # noqa: E501

PRONOUNS = (
    (0, Phrase("I", "ich", "je", "yo")),
    (1, Phrase("he", "er", "il", "él")),
    (1, Phrase("she", "sie", "elle", "ella")),
    (2, Phrase("we", "wir", "nous", "nosotros")),
    (3, Phrase("they", "sie", "ils", "ellos")),
)

NAMES = "Anna Peter Maria Thomas Julia David Laura Martin Sophie Paul Emma Daniel".split()

CITIES = _phrases("""
London; London; Londres; Londres
Paris; Paris; Paris; París
Berlin; Berlin; Berlin; Berlín
Vienna; Wien; Vienne; Viena
Munich; München; Munich; Múnich
Rome; Rom; Rome; Roma
Madrid; Madrid; Madrid; Madrid
Hamburg; Hamburg; Hambourg; Hamburgo
Cologne; Köln; Cologne; Colonia
Geneva; Genf; Genève; Ginebra
""")

VEHICLES = _phrases("""
by train; mit dem Zug; en train; en tren
by car; mit dem Auto; en voiture; en coche
by bus; mit dem Bus; en bus; en autobús
by boat; mit dem Schiff; en bateau; en barco
""")

DAYS = _phrases("""
Monday; Montag; lundi; lunes
Tuesday; Dienstag; mardi; martes
Wednesday; Mittwoch; mercredi; miércoles
Thursday; Donnerstag; jeudi; jueves
Friday; Freitag; vendredi; viernes
Saturday; Samstag; samedi; sábado
Sunday; Sonntag; dimanche; domingo
""")

MONTHS = _phrases("""
January; Januar; janvier; enero
February; Februar; février; febrero
March; März; mars; marzo
April; April; avril; abril
May; Mai; mai; mayo
June; Juni; juin; junio
July; Juli; juillet; julio
August; August; août; agosto
September; September; septembre; septiembre
October; Oktober; octobre; octubre
November; November; novembre; noviembre
December; Dezember; décembre; diciembre
""")

PAST_TIMES = _phrases("""
yesterday; gestern; hier; ayer
last week; letzte Woche; la semaine dernière; la semana pasada
last year; letztes Jahr; l'année dernière; el año pasado
this morning; heute Morgen; ce matin; esta mañana
""")

COMING_TIMES = _phrases("""
tomorrow; morgen; demain; mañana
today; heute; aujourd'hui; hoy
next week; nächste Woche; la semaine prochaine; la próxima semana
next year; nächstes Jahr; l'année prochaine; el próximo año
this evening; heute Abend; ce soir; esta noche
every day; jeden Tag; tous les jours; todos los días
now; jetzt; maintenant; ahora
""")

# After "in": German dative, Spanish "dentro de".
SPANS = _phrases("""
hours; Stunden; heures; horas
days; Tagen; jours; días
weeks; Wochen; semaines; semanas
months; Monaten; mois; meses
""")

DEGREES = _phrases("""
very; sehr; très; muy
too; zu; trop; demasiado
""")
