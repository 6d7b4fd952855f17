"""wrk (https://github.com/wg/wrk): as many requests as so many connections can have answered."""

import re
import subprocess
from collections.abc import Mapping
from types import MappingProxyType

_RATE = re.compile(r"^Requests/sec:\s+([0-9.]+)$", re.MULTILINE)
_COUNT = re.compile(r"^\s+([0-9]+) requests in ", re.MULTILINE)
_FAULT = re.compile(r"^\s+(?:Socket errors|Non-2xx).*$", re.MULTILINE)


def load(url: str, seconds: float, connections: int = 16, headers: Mapping[str, str] = MappingProxyType({})) -> tuple[float, int]:
    """Requests a second, and how many there were. Raises RuntimeError when one of them was not answered well."""
    # wrk knows whole seconds only, and one thread of it is faster than all that is asked here.
    said = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", *said, url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate, count = _RATE.search(told), _COUNT.search(told)
    if rate is None or count is None or (fault := _FAULT.search(told)):
        raise RuntimeError(f"{' '.join(command)}: {fault[0].strip() if fault else told}")
    return float(rate[1]), int(count[1])
