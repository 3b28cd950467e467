"""Studies: a grid of systems from a YAML file (``grid``), the recipe's steps that they take (``cells``), what runs them
(``run``), what they gave (``results``), and the text about it (``report``)."""
