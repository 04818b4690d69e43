// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// forwardedHeader marks a request that a worker passed on; its value is who asked. A
// request that carries it is never passed on again.
const forwardedHeader = "Holdfast-Forwarded"

// How long the owner may take.
const (
	readForward  = 2 * time.Second
	orderForward = 15 * time.Second
	testForward  = 60 * time.Second
)

// errBusy is an owner that answered 503: it did nothing.
var errBusy = errors.New("owner answers 503")

// askOwner passes the request on to the owner of the host. Done: the answer is written.
// Not done and no error: answer it here, because the host is ours, or because the owner
// cannot and any worker may (local).
func (c *call) askOwner(host string, body []byte, wait time.Duration, local bool) (done bool, err error) {
	base, own := c.b.OwnerAPI(host)
	if own || local && (base == "" || c.r.Header.Get(forwardedHeader) != "") {
		return false, nil
	}
	if base == "" || c.r.Header.Get(forwardedHeader) != "" {
		if _, err := c.b.Host(c.ctx(), host); err != nil {
			return false, err // an unknown host has no owner either
		}
		return false, v1.Problemf(v1.CodeUnavailable, "host %s: no worker owns it at the moment, nothing was done", host).
			WithHint("ownership settles within seconds of a worker's end: try again, and see 'holdfast get workers'")
	}
	err = c.passOn(base, body, wait)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(c.ctx().Err(), context.Canceled):
		return true, nil // the caller has gone
	case local:
		return false, nil
	case errors.Is(err, errBusy) || refusedDial(err):
		return false, v1.Problemf(v1.CodeUnavailable, "host %s: its owner at %s cannot take the order, nothing was done: %v", host, base, err).
			WithHint("its hosts move to other workers within seconds: try again")
	}
	return false, v1.Problemf(v1.CodeUnknownOutcome, "host %s: its owner at %s did not answer, the order may or may not be on record: %v", host, base, err).
		WithHint("look before you repeat it: holdfast explain host %s", host)
}

// passOn is one trip through a reverse proxy. An error means that nothing was written
// to the caller.
func (c *call) passOn(base string, body []byte, wait time.Duration) error {
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	target, err := url.Parse(base)
	if err != nil {
		return fmt.Errorf("read the owner's address: %w", err)
	}
	ctx, cancel := context.WithTimeout(c.ctx(), wait)
	defer cancel()
	in := c.r.Clone(ctx)
	if body != nil {
		in.Body, in.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	var failed error
	proxy := &httputil.ReverseProxy{
		Transport: c.o.Forward,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Header.Set(forwardedHeader, c.who)
			p.Out.Header.Del("Authorization") // the token is for this worker, which has checked it
		},
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode == http.StatusServiceUnavailable {
				return errBusy
			}
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
		ErrorLog:     slog.NewLogLogger(c.o.Logger.Handler(), slog.LevelWarn),
	}
	proxy.ServeHTTP(c.w, in)
	return failed
}

// refusedDial says whether a request certainly never left this worker.
func refusedDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
