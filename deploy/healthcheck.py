"""Exit 0 when the address answers 200, exactly; a redirect or an error page is not health. Standard library only."""

import http.client
import sys
from urllib.parse import urlsplit

address = urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=2)
try:
    connection.request("GET", address.path)
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer: {error}")
print(status)
sys.exit(0 if status == 200 else 1)
