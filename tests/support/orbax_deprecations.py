"""A fixture that fails a test during which Orbax uses or reports something deprecated.

Orbax does not use `warnings`, so the filter in pyproject.toml never sees its deprecations. It logs them through absl, whose
level the library raises, and records events of `jax.monitoring` for some of them.
"""

import jax
import pytest
from absl import logging as absl_logging

EVENT = "/jax/orbax/deprecation/"
_seen = []


def _watch():
    logger = absl_logging.get_absl_logger()
    log = logger.log  # absl calls it for every message; the level is compared only within

    def watched(level, message, *arguments, **options):
        if isinstance(message, str) and "deprecat" in message.lower():  # the text before its arguments, such as paths
            _seen.append(f"absl: {message % arguments if arguments else message}")
        log(level, message, *arguments, **options)

    logger.log = watched


def _listen(event, **_):
    if event.startswith(EVENT):
        _seen.append(event)


_watch()


def seen():
    """Returns the deprecations since the last call."""
    messages = list(_seen)
    _seen.clear()
    return messages


@pytest.fixture(autouse=True)
def fail_on_orbax_deprecations():
    """Fails a test during which Orbax reported a deprecation."""
    seen()
    jax.monitoring.register_event_listener(_listen)
    yield
    jax.monitoring.unregister_event_listener(_listen)
    assert not (messages := seen()), f"deprecated parts of Orbax were used: {messages}"
