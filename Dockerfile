# The agent's image: one static binary, CA certificates and time zones; no shell.
FROM docker.io/library/rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev ca-certificates tzdata
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package lamina-agent --target x86_64-unknown-linux-musl

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/share/zoneinfo /usr/share/zoneinfo
COPY --from=build /src/target/x86_64-unknown-linux-musl/release/lamina /usr/bin/lamina
ENTRYPOINT ["/usr/bin/lamina"]
CMD ["agent"]
