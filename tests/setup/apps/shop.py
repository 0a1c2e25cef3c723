"""A shop that counts its visits in a database, which it finds by the name in DATABASE_HOST.

GET / counts a visit and answers with the total; GET /healthz answers 200 once the database answers. One connection is
kept for as long as it lasts; /connected tells how many were opened.
"""
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

LOCK = threading.Lock()
STATE = {"connection": None, "opened": 0}


def query(text):
    with LOCK:
        for attempt in range(2):
            try:
                if STATE["connection"] is None:
                    host = os.environ["DATABASE_HOST"]
                    connection = psycopg2.connect(host=host, user="shop", dbname="postgres", connect_timeout=2)
                    connection.autocommit = True
                    STATE["connection"] = connection
                    STATE["opened"] += 1
                    connection.cursor().execute(
                        "CREATE TABLE IF NOT EXISTS visits (at timestamptz NOT NULL DEFAULT now())"
                    )
                cursor = STATE["connection"].cursor()
                cursor.execute(text)
                return cursor.fetchone() if cursor.description else None
            except psycopg2.Error:
                STATE["connection"] = None
                if attempt:
                    raise


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            if self.path == "/healthz":
                query("SELECT 1")
                body = "ok"
            elif self.path == "/connected":
                body = str(STATE["opened"])
            else:
                query("INSERT INTO visits DEFAULT VALUES")
                body = f"visits {query('SELECT count(*) FROM visits')[0]}"
            status = 200
        except Exception as error:
            status, body = 503, str(error)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(f"{body}\n".encode())

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    print(f"shop on {os.uname().nodename}", flush=True)
    ThreadingHTTPServer(("", 8080), Handler).serve_forever()
