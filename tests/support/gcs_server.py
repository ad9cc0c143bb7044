"""The XML interface of Google Cloud Storage, for tests: moto's S3 server with the headers that have other names there.

Google's XML interface is that of S3, except for the credentials, for the condition of a creation and for generations. The
emulators of Google Cloud Storage in package indexes lack parts of it: the list of objects, multipart uploads, or conditions.

Prints `http://127.0.0.1:PORT` when it is ready.
"""

import sys

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

# By these names WSGI knows the headers of a request.
RENAMED = {
    "HTTP_X_GOOG_COPY_SOURCE": "HTTP_X_AMZ_COPY_SOURCE",
}
# moto finds the service by the credentials of AWS.
AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"


class GoogleCloudStorage:
    def __init__(self, s3):
        self.s3 = s3

    def __call__(self, environ, start_response):
        # Requests without a token, from the tests themselves, make the bucket.
        token = environ.get("HTTP_AUTHORIZATION")
        if token not in (None, "Bearer token"):
            start_response("401 Unauthorized", [("Content-Type", "text/plain"), ("Content-Length", "0")])
            return []
        environ["HTTP_AUTHORIZATION"] = AUTHORIZATION
        for google, amazon in RENAMED.items():
            if google in environ:
                environ[amazon] = environ.pop(google)
        # Generation 0 is that of an object that does not exist.
        if environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None) == "0":
            environ["HTTP_IF_NONE_MATCH"] = "*"

        def start(status, headers, *rest):
            return start_response(status, [*headers, ("x-goog-generation", "1")], *rest)

        return self.s3(environ, start)


server = make_server("127.0.0.1", 0, GoogleCloudStorage(DomainDispatcherApplication(create_backend_app)), threaded=True)
print(f"http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
server.serve_forever()
