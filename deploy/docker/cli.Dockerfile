# SPDX-License-Identifier: Apache-2.0
# The command line, for jobs in a cluster.
#   docker build -f deploy/docker/cli.Dockerfile --build-arg VERSION=v0.1.0 -t holdfast:v0.1.0 .
FROM golang:1.26 AS build
ARG VERSION=devel
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/holdfast ./cmd/holdfast

FROM scratch
COPY --from=build /out/holdfast /holdfast
USER 65532:65532
ENTRYPOINT ["/holdfast"]
