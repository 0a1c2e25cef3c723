# Makes a database where there is none, then becomes its server.
set -eu
if ! [ -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    chmod 700 "$PGDATA"
    initdb --pgdata="$PGDATA" --username=shop --auth=trust --encoding=UTF8 --locale=C >/dev/null
    echo "host all all all trust" >>"$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
