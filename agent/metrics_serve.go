// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
)

// metricsRetry is after how long an address that could not be listened on is tried again.
const metricsRetry = 5 * time.Second

// checkListenMetrics says whether metrics may be shown at the address.
func (o *Options) checkListenMetrics() error {
	if o.ListenMetrics == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(o.ListenMetrics)
	if err != nil {
		return fmt.Errorf("listenMetrics: %q: want host:port, or nothing at all", o.ListenMetrics)
	}
	if o.InsecureLoopback && !trust.Loopback(host) {
		return fmt.Errorf("listenMetrics: %q: without TLS only loopback addresses are allowed", o.ListenMetrics)
	}
	return nil
}

// metricsLoop shows the metrics where the options say. An address that is taken keeps no
// agent from its work: it is tried again.
func (a *Agent) metricsLoop(ctx context.Context) error {
	if a.opts.ListenMetrics == "" {
		return nil
	}
	for said := ""; ; {
		err := a.showMetrics(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != said {
			a.opts.Logger.Error("metrics are not shown", "cause", err, "retry_in", metricsRetry)
			said = err.Error()
		}
		if !sleep(ctx, metricsRetry) {
			return nil
		}
	}
}

// showMetrics serves until ctx ends: in plaintext on a loopback address, elsewhere with this
// host's certificate, to operators only, as a worker's API does.
func (a *Agent) showMetrics(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", a.opts.ListenMetrics)
	if err != nil {
		return fmt.Errorf("listenMetrics: %q: %w", a.opts.ListenMetrics, err)
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	return a.serveMetrics(ctx, l, ok && addr.IP.IsLoopback())
}

func (a *Agent) serveMetrics(ctx context.Context, l net.Listener, plain bool) error {
	a.opts.Logger.Info("metrics are shown", "address", l.Addr().String())
	address := l.Addr().String()
	a.showing.Store(&address)
	mux, show := http.NewServeMux(), a.metrics.Handler()
	if !plain {
		l, show = tls.NewListener(l, a.metricsDesk()), a.forOperators(show)
	}
	mux.Handle("GET /metrics", show)
	s := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: log.New(metricsLog{a}, "", 0),
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // what is under way counts for nothing now
	defer stop()
	return s.Serve(l)
}

// metricsDesk is the configuration of a server in this host's name; nobody is answered while
// the host has no certificate.
func (a *Agent) metricsDesk() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		certs := a.trust.Load()
		if certs == nil {
			return nil, errors.New("this host has no certificate yet")
		}
		return certs.Desk("http/1.1").GetConfigForClient(hello)
	}}
}

// forOperators lets in who has shown an operator's certificate.
func (a *Agent) forOperators(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		certs := a.trust.Load()
		if certs == nil || r.TLS == nil {
			http.Error(w, "this host has no certificate", http.StatusServiceUnavailable)
			return
		}
		if _, err := certs.Client(r.TLS.PeerCertificates, trust.Operator); err != nil {
			http.Error(w, fmt.Sprintf("an operator's certificate is needed: %v", err), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// metricsLog takes what net/http has to say; anybody can make it say much.
type metricsLog struct{ a *Agent }

func (l metricsLog) Write(line []byte) (int, error) {
	l.a.opts.Logger.Debug("metrics connection", "cause", string(bytes.TrimSpace(line)))
	return len(line), nil
}
