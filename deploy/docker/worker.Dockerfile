# SPDX-License-Identifier: Apache-2.0
# The worker and nothing else: no shell, no libc, no user database. Drivers that run programs
# (fence agents, virsh, exec, the page hook) need an image of your own with these programs.
#   docker build -f deploy/docker/worker.Dockerfile --build-arg VERSION=v0.1.0 -t holdfast-worker:v0.1.0 .
FROM golang:1.26 AS build
ARG VERSION=devel
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/holdfast-worker ./cmd/holdfast-worker

FROM scratch
COPY --from=build /out/holdfast-worker /holdfast-worker
# Numeric, so that runAsNonRoot can be checked without a user database.
USER 65532:65532
EXPOSE 7080 7443
ENTRYPOINT ["/holdfast-worker"]
