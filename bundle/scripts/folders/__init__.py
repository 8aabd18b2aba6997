"""From folders to cases: which file is which image of which patient."""
