"""The fairseq task ``lst_st`` and its settings."""
