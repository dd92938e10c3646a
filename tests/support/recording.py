"""Settings that note which of their fields are read by attribute, and nothing else."""

import dataclasses
import pathlib
import sys

# Where reading a setting is no use of it: there it is carried, compared, shown or checked.
CARRIERS = ("settings.py", "dataclasses.py", "<string>")  # the last are methods of dataclasses
CHECKS = ("check", "validate", "_limited", "_groups")


def watched(config, reads):
    """The same settings; each field that is read adds `Group.field` to the set `reads`."""
    values = {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)}
    inner = {
        name: watched(value, reads) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
    }
    return noting(type(config), reads)(**inner)


def noting(kind, reads):
    """A group of settings as `kind` that notes what is read of it."""
    names = {entry.name for entry in dataclasses.fields(kind)}

    def read(self, name):
        if name in names:
            code = sys._getframe(1).f_code
            carried = pathlib.Path(code.co_filename).name in CARRIERS or code.co_name in CHECKS
            if not carried:
                reads.add(f"{kind.__name__}.{name}")
        return object.__getattribute__(self, name)

    return type(kind.__name__, (kind,), {"__getattribute__": read})


def fields_of(config):
    """`Group.field` of every setting."""
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        yield f"{type(config).__name__}.{entry.name}"
        if dataclasses.is_dataclass(value):
            yield from fields_of(value)
