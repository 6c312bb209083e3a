# A slow endpoint as anyone has one: it takes its time and answers. Ten lines, nothing of Ringback in it.
import http.server, json, sys, time

class Reports(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        wish = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(1)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"report": wish["reportType"], "pages": 12}).encode())

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Reports).serve_forever()
