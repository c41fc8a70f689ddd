#!/usr/bin/env bash
# The tracking server for a group: PostgreSQL and an MLflow server with proxied artifacts, without containers or systemd.
#
#   deploy/server.sh start|stop|status [FOLDER]     all its data are in FOLDER (default: ./mlserver)
#
# HOST (127.0.0.1), PORT (5000), WORKERS (4) and ALLOWED_HOSTS (names clients may call the server by) are taken from the
# environment. PostgreSQL listens on a socket in FOLDER only. Needs Debian's package postgresql, or any PostgreSQL whose
# programs are in PG_BIN, and `pip install 'bioquant[server]'`.
set -euo pipefail

VERB=${1:-}
FOLDER=$(realpath --canonicalize-missing "${2:-mlserver}")
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
WORKERS=${WORKERS:-4}
PG_BIN=${PG_BIN:-$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1)}
MLFLOW=${MLFLOW:-$([ -x "$(dirname "$0")/../.venv/bin/mlflow" ] && echo "$(dirname "$0")/../.venv/bin/mlflow" || echo mlflow)}
DATABASE="$FOLDER/postgresql"
SOCKET="$FOLDER/socket"
URI="postgresql://mlflow@/mlflow?host=$SOCKET"

die() { echo "error: $1" >&2; exit 2; }

# PostgreSQL refuses to run as root: there it runs as the user `postgres`, which owns its folders and nothing else.
as_database() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }

database_is_up() { [ -s "$DATABASE/postmaster.pid" ] && as_database "$PG_BIN/pg_ctl" -D "$DATABASE" status >/dev/null 2>&1; }

server_is_up() { [ -s "$FOLDER/mlflow.pid" ] && kill -0 "$(cat "$FOLDER/mlflow.pid")" 2>/dev/null; }

answers() { python3 -c "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)" "http://127.0.0.1:$PORT/health" 2>/dev/null; }

make_database() {
  [ "${#SOCKET}" -le 90 ] || die "the path $FOLDER is too long for a socket: choose one of at most 83 characters"
  as_database test -x "$FOLDER" || die "the user postgres cannot enter $FOLDER: choose a folder whose parents let it through"
  mkdir -p "$DATABASE" "$SOCKET" "$FOLDER/artifacts"
  chmod 700 "$DATABASE" "$SOCKET"
  [ "$(id -u)" != 0 ] || chown postgres "$DATABASE" "$SOCKET"
  # Whoever may enter the socket's folder may use the database: its owner and root. There is no other way in.
  as_database "$PG_BIN/initdb" --pgdata "$DATABASE" --auth trust --username mlflow --encoding UTF8 --locale C >/dev/null
  cat >>"$DATABASE/postgresql.conf" <<EOF
listen_addresses = ''
unix_socket_directories = '$SOCKET'
max_connections = 200
EOF
}

start_database() {
  [ -s "$DATABASE/PG_VERSION" ] || make_database
  database_is_up && return
  as_database "$PG_BIN/pg_ctl" -D "$DATABASE" -l "$DATABASE/server.log" -w start >/dev/null ||
    die "PostgreSQL did not start: see $DATABASE/server.log"
  as_database "$PG_BIN/psql" -h "$SOCKET" -U mlflow -d postgres -tAc "SELECT 1 FROM pg_database WHERE datname = 'mlflow'" | grep -q 1 ||
    as_database "$PG_BIN/createdb" -h "$SOCKET" -U mlflow mlflow
}

start_server() {
  server_is_up && return
  local allowed=()
  # Under gunicorn a call takes a fifth of the time it takes under uvicorn with several workers, which lets each answer
  # of a kept connection wait for the client's delayed acknowledgement (40 ms). MLflow warns against it: not for us.
  [ -z "${ALLOWED_HOSTS:-}" ] || allowed=(--allowed-hosts "$ALLOWED_HOSTS")
  MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true nohup setsid "$MLFLOW" server \
    --backend-store-uri "$URI" --serve-artifacts --artifacts-destination "$FOLDER/artifacts" \
    --host "$HOST" --port "$PORT" --workers "$WORKERS" --gunicorn-opts "--threads 4 --keep-alive 30 --graceful-timeout 10 --no-control-socket" "${allowed[@]}" >>"$FOLDER/mlflow.log" 2>&1 </dev/null &
  echo $! >"$FOLDER/mlflow.pid"
  for _ in $(seq 240); do
    answers && return
    server_is_up || die "the MLflow server did not start: see $FOLDER/mlflow.log"
    sleep 0.5
  done
  die "the MLflow server does not answer on port $PORT: see $FOLDER/mlflow.log"
}

case "$VERB" in
  start)
    [ -x "$PG_BIN/initdb" ] || die "no PostgreSQL here: apt-get install postgresql, or set PG_BIN to the folder of its programs"
    command -v "$MLFLOW" >/dev/null || die "no mlflow here: make install, or set MLFLOW to the program"
    mkdir -p "$FOLDER"
    start_database
    start_server
    echo "MLflow on http://$HOST:$PORT, its data in $FOLDER"
    ;;
  stop)
    # The whole process group: the server's workers, which hold its port, outlive its first process.
    if server_is_up; then
      group=$(cat "$FOLDER/mlflow.pid")
      kill -- "-$group"
      for _ in $(seq 150); do kill -0 -- "-$group" 2>/dev/null || break; sleep 0.1; done
      kill -KILL -- "-$group" 2>/dev/null || true
    fi
    rm -f "$FOLDER/mlflow.pid"
    if database_is_up; then as_database "$PG_BIN/pg_ctl" -D "$DATABASE" -m fast -w stop >/dev/null; fi
    echo "stopped"
    ;;
  status)
    database_is_up && echo "PostgreSQL: up" || echo "PostgreSQL: down"
    server_is_up && answers && echo "MLflow: up on port $PORT" || echo "MLflow: down"
    ;;
  *)
    die "give start, stop or status, then the folder of its data; not '$VERB'"
    ;;
esac
