"""Random messages in random fragments, from the strategies of `wsproto_min.testing`.

They need Hypothesis, which the default installation does not have.
"""

from __future__ import annotations

import warnings

from wsproto_min.connection import Event, Pong
from wsproto_min.deflate import DeflateParameters
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Skipped

_EXAMPLES = 15


def check_random_traffic(program: Program, *, compression: DeflateParameters | None = None) -> None:
    """Send random messages, some in fragments, with Pings and Pongs, and expect the answers.

    Args:
        program: The student's program.
        compression: Parameters of permessage-deflate to offer; None for no offer.

    Raises:
        Skipped: Hypothesis is not installed.
        Wrong: An answer is wrong.

    """
    try:
        from hypothesis import HealthCheck, Phase, Verbosity, given, settings
        from hypothesis.errors import HypothesisWarning

        from wsproto_min.testing.strategies import PING, Compression, Control, Traffic, traffic
    except ImportError:
        raise Skipped("install hypothesis: python3 -m pip install hypothesis") from None

    def run(sent: Traffic) -> None:
        answers: list[Event] = []
        for event in sent.events:
            if not isinstance(event, Control):
                answers.append(event)
            elif event.opcode == PING:
                answers.append(Pong(event.payload))
        with Exchange(program) as exchange:
            exchange.open(compression=compression)
            exchange.send(sent.data)
            exchange.expect(*answers)

    # Without shrinking, because a wrong answer may cost the whole patience.
    rule = settings(
        max_examples=_EXAMPLES,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    kind: Compression | None = None if compression is None else "alone"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # about the size of an example
        rule(given(traffic(masked=True, compression=kind))(run))()
