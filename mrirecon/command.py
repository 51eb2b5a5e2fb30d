"""What all commands share: Hydra with the config of a checkpoint, one clear message for a mistake, exit codes."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mrirecon.config.allowlist import check_targets, data_only
from mrirecon.config.compose import plain
from mrirecon.config.options import CONF, spell_lists
from mrirecon.config.overrides import check_types, explain, parse, without_null
from mrirecon.errors import ConfigError, DivergedError, InputError
from mrirecon.inference.checkpoints import read_checkpoint
from mrirecon.inference.export import is_exported, weights_file
from mrirecon.system.atomic import disk_message
from mrirecon.system.atomic import output_folder as output_folder
from mrirecon.system.interrupts import raise_ctrl_c

log = logging.getLogger(__name__)

Story = Callable[[DictConfig], int | None]


def command(config_name: str, from_checkpoint: tuple[str, ...] = ()) -> Callable[[Story], Callable[[], None]]:
    """Makes a command of a function of the config: `python scripts/NAME.py key=value ...`.

    from_checkpoint: config groups and keys that `ckpt=FILE` brings with it; each can still be chosen, or changed key by
    key.

    Exit codes: what the function returns (None is 0); 1 unexpected; 2 usage or config; 3 input data; 130 Ctrl-C.
    """

    def wrap(story: Story) -> Callable[[], None]:
        started = False

        def job(cfg: DictConfig) -> None:
            nonlocal started
            started = True
            guarded(lambda: _checked(cfg, config_name, story))

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print a mistake its own way and exit with 1
            logging.raiseExceptions = False  # a traceback for every line that a full disk does not take
            guarded(lambda: _bring_checkpoint(from_checkpoint))
            guarded(lambda: _spell_lists(config_name))
            sys.argv[1:] = [kept for argument in sys.argv[1:] if (kept := without_null(argument, config_name))]
            run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)
            try:
                run()
            except (HydraException, OmegaConfBaseException) as error:
                _stop(explain(error, sys.argv[1:], config_name), ConfigError.exit_code)
            except KeyboardInterrupt:  # while Hydra composes the config
                _stop("stopped by Ctrl-C", 130)
            except OSError as error:
                if started:
                    raise
                place = error.filename or "the folder of the run"
                _stop(f"{place}: {error.strerror}: choose another folder with hydra.run.dir=DIR", 2)

        return main

    return wrap


def _checked(cfg: DictConfig, config_name: str, story: Story) -> int | None:
    # Lightning 2.6.6 asks torch's tree utilities in a way that torch 2.15 deprecates. Here, as a launcher's worker has
    # filters of its own.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    check_types(cfg, HydraConfig.get().overrides.task, config_name)
    check_targets(plain(cfg))
    if cfg.get("ckpt") is not None and is_exported(Path(str(cfg.ckpt))):
        cfg.ckpt = str(weights_file(Path(str(cfg.ckpt))))  # scores give the sha256 of the file they were made from
    return story(cfg)


def guarded(action: Callable[[], int | None]) -> None:
    """Does it, and exits with one message and the code of the error where it fails."""
    try:
        raise_ctrl_c()  # what is begun from here on ends in order
        code = action()
    except (ConfigError, InputError, DivergedError) as error:
        _stop(message_of(error), error.exit_code)
    except MissingMandatoryValue as error:
        key = error.full_key or str(error).rpartition(": ")[2]
        _stop(f"{key} has no value: add {key}=...", ConfigError.exit_code)
    except (OmegaConfBaseException, MisconfigurationException) as error:
        _stop(str(error).splitlines()[0], ConfigError.exit_code)
    except OSError as error:
        if not disk_message(error):
            raise
        _stop(disk_message(error), 1)
    except KeyboardInterrupt:
        _stop("stopped by Ctrl-C", 130)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt) and error.code != 130:  # Lightning turns it into exit(1)
            _stop("stopped by Ctrl-C; the last checkpoint is that of the last whole epoch", 130)
        raise
    else:
        if code:
            sys.exit(code)


def _stop(message: str, code: int) -> None:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        sys.exit(code)  # the first rank says it
    if any(isinstance(handler, logging.FileHandler) for handler in logging.getLogger().handlers):  # the run has its log
        log.error("error: %s", message)
    else:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def message_of(error: BaseException) -> str:
    """The message of an error, without the traceback that a data-loader worker wraps around it."""
    _, found, message = str(error).rpartition(f"{type(error).__name__}: ")
    return message.strip() if found else str(error)


def _bring_checkpoint(keys: tuple[str, ...]) -> None:
    """Offers the groups of the checkpoint's config to Hydra as the option `checkpoint`, and chooses them."""
    overrides = parse([a for a in sys.argv[1:] if "=" in a and not a.startswith("-")]) if keys else []
    given = {override.key_or_group: override.value() for override in overrides}
    if given.get("ckpt") is None:
        return
    config = read_checkpoint(str(given["ckpt"]))["config"]
    for key in keys:
        value = data_only(config.get(key), key)
        if isinstance(value, dict):
            ConfigStore.instance().store(group=key, name="checkpoint", node=value)
            value = "checkpoint"
        if key not in given and value is not None:
            sys.argv.insert(1, f"{key}={value}")  # before what was typed, which may change it


def _spell_lists(config_name: str) -> None:
    sys.argv[1:] = spell_lists(sys.argv[1:], config_name)
