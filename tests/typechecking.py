"""Checks signatures at run time; an int will do where a float is wanted, as in all of Python."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
