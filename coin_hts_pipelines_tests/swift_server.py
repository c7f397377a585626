"""OpenStack Swift with its S3 interface in one process, over TLS on 127.0.0.1: a server that really checks.

Stand-alone: run by the Python of `.venv-swift`, never imported by the tests (eventlet patches the whole process).

    python -P swift_server.py FOLDER SECRET

Everything is kept in FOLDER. When the server answers, FOLDER/port holds the port and FOLDER/cert.pem its certificate.
The users are `test:tester` (may do all) and `test:reader` (may do nothing); both have the secret SECRET.
"""

import eventlet

eventlet.monkey_patch()

import datetime  # noqa: E402
import ipaddress  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from array import array  # noqa: E402
from pathlib import Path  # noqa: E402

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from eventlet import wsgi  # noqa: E402

SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = coin
swift_hash_path_suffix = hts

[storage-policy:0]
name = one
default = yes

[swift-constraints]
max_meta_value_length = 2048
max_meta_overall_size = 2048
"""

PROXY_CONF = """
[DEFAULT]
swift_dir = {folder}

[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth copy slo dlo versioned_writes symlink proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
node_timeout = 30
recoverable_node_timeout = 30
conn_timeout = 20
client_timeout = 60

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
user_test_reader = {secret}

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
check_bucket_owner = true
dns_compliant_bucket_names = true
s3_acl = false

[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""  # noqa: E501

PLAIN_FILTERS = (
    "catch_errors",
    "gatekeeper",
    "healthcheck",
    "listing_formats",
    "bulk",
    "copy",
    "slo",
    "dlo",
    "symlink",
)


def make_certificate(folder):
    """Write a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))


def serve(sock, app):
    """Serve one WSGI application; metadata keys would come back as `K1` if eventlet capitalized headers."""
    from swift.common.http_protocol import SwiftHttpProtocol

    wsgi.server(
        sock,
        app,
        log=logging.getLogger("swift-requests"),
        log_output=False,
        protocol=SwiftHttpProtocol,
        capitalize_response_headers=False,
        url_length_limit=16384,
        socket_timeout=60,
    )


def main(folder, secret):
    """Write the configuration and the rings, start the four servers, run until the starting process is gone."""
    (folder / "swift.conf").write_text(SWIFT_CONF)
    proxy_conf = PROXY_CONF.format(folder=folder, secret=secret)
    proxy_conf += "".join(f"\n[filter:{name}]\nuse = egg:swift#{name}\n" for name in PLAIN_FILTERS)
    (folder / "proxy.conf").write_text(proxy_conf)
    (folder / "devices" / "sda1").mkdir(parents=True, exist_ok=True)
    if not (folder / "cert.pem").exists():
        make_certificate(folder)

    from swift.common import constraints, storage_policy, utils

    utils.set_swift_dir(str(folder))
    constraints.reload_constraints()
    storage_policy.reload_storage_policies()

    from swift.account.server import AccountController
    from swift.common.ring.ring import RingData
    from swift.common.wsgi import loadapp
    from swift.container.server import ContainerController
    from swift.obj.server import ObjectController

    warnings.filterwarnings("ignore", message="capitalize_response_headers is disabled")
    conf = {
        "devices": str(folder / "devices"),
        "swift_dir": str(folder),
        "mount_check": "false",
        "disable_fallocate": "true",
        "fallocate_reserve": "0",
        "node_timeout": "30",
        "conn_timeout": "20",
    }
    for kind, controller in (
        ("account", AccountController),
        ("container", ContainerController),
        ("object", ObjectController),
    ):
        sock = eventlet.listen(("127.0.0.1", 0))
        device = {"id": 0, "zone": 0, "region": 1, "device": "sda1", "ip": "127.0.0.1", "port": sock.getsockname()[1]}
        RingData([array("H", [0, 0])], [device], 31).save(str(folder / f"{kind}.ring.gz"))
        eventlet.spawn(serve, sock, controller(conf))
    plain = eventlet.listen(("127.0.0.1", 0))
    port = plain.getsockname()[1]
    secure = eventlet.wrap_ssl(
        plain, certfile=str(folder / "cert.pem"), keyfile=str(folder / "key.pem"), server_side=True
    )
    eventlet.spawn(serve, secure, loadapp(str(folder / "proxy.conf")))
    (folder / "port.new").write_text(str(port))
    (folder / "port.new").replace(folder / "port")
    parent = os.getppid()
    while os.getppid() == parent:
        eventlet.sleep(0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
