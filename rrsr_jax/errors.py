"""The one exception that means: the program is fine, what it was given is not."""


class InputError(ValueError):
    """Bad input from outside (files, folders, config, weights). The message says what was expected, what came, what to do."""
