"""The codec's benchmarks, in which our contender runs in a process of its own.

Another checkout or another interpreter can then run it, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

from tests.benchmarks import codec
from tests.benchmarks.measure import Benchmark, Contender, Sample, Variant, Wrong
from tests.benchmarks.servers import ROOT

# It runs in older checkouts as well, so it uses only names that are old.
_RUN = """
import sys
from tests.benchmarks import codec
benchmarks = codec.benchmarks(quick=sys.argv[2] == "True", ours_alone=True)
ours = {benchmark.name: benchmark.contenders[0] for benchmark in benchmarks}
if sys.argv[1] not in ours:
    sys.exit("this checkout has no benchmark of this name")
print(ours[sys.argv[1]].run().value)
"""


def benchmarks(*, quick: bool = False) -> list[Benchmark]:
    """Return the benchmarks of `codec`; `quick` ones are shorter."""
    return [
        replace(each, contenders=[_ours(each.name, quick), *each.contenders[1:]])
        for each in codec.benchmarks(quick=quick)
    ]


def _ours(name: str, quick: bool) -> Contender:
    def vary(variant: Variant) -> Contender:
        return Contender(f"wsproto_min, {variant.name}", partial(_run, name, quick, variant))

    this = Variant("", sys.executable, ROOT)
    return Contender("wsproto_min", partial(_run, name, quick, this), vary)


def _run(name: str, quick: bool, variant: Variant) -> Sample:
    ran = subprocess.run(
        [variant.python, "-c", _RUN, name, str(quick)],
        cwd=variant.root,
        env={**os.environ, "PYTHONPATH": str(variant.root)},
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise Wrong(f"codec: {ran.stderr.strip().rpartition(chr(10))[2]}")
    return Sample(float(ran.stdout))
