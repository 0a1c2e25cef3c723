# The agent's image: one static binary, CA certificates and time zones; no shell.
FROM docker.io/library/rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev make nasm autoconf automake libtool ca-certificates tzdata
WORKDIR /src
COPY . .
# Sources of crates have the same name in every build, as in those of lamina-setup: the binary is the same, byte for byte.
RUN cargo fetch --locked --target x86_64-unknown-linux-musl \
    && sources=$(echo "$CARGO_HOME"/registry/src/*) \
    && cargo build --release --locked --package lamina-agent --target x86_64-unknown-linux-musl \
        --config "target.x86_64-unknown-linux-musl.rustflags=['--remap-path-prefix=$sources=/crates']"

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/share/zoneinfo /usr/share/zoneinfo
COPY --from=build /src/target/x86_64-unknown-linux-musl/release/lamina /usr/bin/lamina
ENTRYPOINT ["/usr/bin/lamina"]
CMD ["agent"]
