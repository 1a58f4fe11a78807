"""A server of a folder that answers ranges: python range_server.py FOLDER prints its port.

In a process of its own, since rasterio holds Python's lock while GDAL waits for an answer. Once
there is a file FOLDER/stop, every connection is closed without an answer.
"""

import functools
import http.server
import os
import re
import sys


class Ranges(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if os.path.exists(os.path.join(self.directory, "stop")):
            self.close_connection = True
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = self.translate_path(self.path)
        if not asked or not os.path.isfile(path):
            super().do_GET()
            return
        with open(path, "rb") as file:
            data = file.read()
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first:last + 1])

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Ranges, directory=sys.argv[1]))
    print(server.server_port, flush=True)
    server.serve_forever()
