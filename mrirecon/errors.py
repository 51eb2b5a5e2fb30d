"""What a user can get wrong, and the exit code each kind ends a command with."""


class ConfigError(ValueError):
    """A setting that cannot work: the message names the key, what was expected, what came and what to do."""

    exit_code = 2


class InputError(ValueError):
    """Input data that cannot be used: the message names the file, what was expected, what came and what to do."""

    exit_code = 3


class DivergedError(ArithmeticError):
    """Training produced a number that is not finite; it stopped before the optimizer step."""

    exit_code = 1
