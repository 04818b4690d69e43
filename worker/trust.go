// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/leases"
)

// noTrust is what a worker without certificates is told.
const noTrust = "tlsCA, tlsCert, tlsKey: empty, without certificates nothing listens or connects; a set for a lab: holdfast pki init --dir pki && holdfast pki issue worker %s --dir pki; " +
	"for plaintext on this machine alone: insecureLoopback: true with loopback addresses everywhere"

// wire is how a worker proves who it is; nil sources mean plaintext on loopback.
type wire struct{ own, etcd *trust.Source }

// checkWire names everything that would let a plaintext byte leave this machine.
func (o Options) checkWire() (errs []error) {
	if !o.InsecureLoopback {
		if o.TLS.None() {
			errs = append(errs, fmt.Errorf(noTrust, orElse(o.ID, "ID")))
		}
		for _, e := range o.Etcd {
			if !strings.HasPrefix(e, "https://") {
				errs = append(errs, fmt.Errorf("etcd: %q, allowed is https://host:port", e))
			}
		}
		return errs
	}
	if !o.TLS.None() || !o.EtcdTLS.None() {
		errs = append(errs, errors.New("insecureLoopback: true, not allowed together with certificates"))
	}
	local := func(field, host, all string) {
		if !trust.Loopback(host) {
			errs = append(errs, fmt.Errorf("%s: %q: insecureLoopback allows loopback addresses only", field, all))
		}
	}
	for _, a := range []struct{ field, addr string }{
		{"listenAPI", o.ListenAPI}, {"listenAgents", o.ListenAgents}, {"advertiseAPI", o.AdvertiseAPI}, {"advertiseAgents", o.AdvertiseAgents},
	} {
		if host, _, err := net.SplitHostPort(a.addr); err == nil {
			local(a.field, host, a.addr)
		} else if a.addr != "" { // empty ones are checked where they are used
			errs = append(errs, fmt.Errorf("%s: %q, allowed is host:port", a.field, a.addr))
		}
	}
	for field, l := range map[string]net.Listener{"listenAPI": o.APIListener, "listenAgents": o.AgentsListener} {
		if l != nil {
			host, _, _ := net.SplitHostPort(l.Addr().String()) // empty is not loopback either
			local(field, host, l.Addr().String())
		}
	}
	for _, e := range o.Etcd {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" {
			errs = append(errs, fmt.Errorf("etcd: %q, allowed with insecureLoopback is http://host:port", e))
			continue
		}
		local("etcd", u.Hostname(), e)
	}
	return errs
}

// open reads the certificates of checked options.
func (o Options) open() (w wire, err error) {
	if o.InsecureLoopback {
		return wire{}, nil
	}
	log := o.Logger.With("worker", o.ID)
	w.own, err = trust.Open(trust.Config{
		Files: o.TLS, Fields: trust.Files{CA: "tlsCA", Cert: "tlsCert", Key: "tlsKey"},
		Want: trust.Identity{Role: trust.Worker, ID: o.ID}, Logger: log,
	})
	if err != nil {
		return wire{}, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	if o.EtcdTLS.None() || o.EtcdTLS == o.TLS {
		w.etcd = w.own
		return w, nil
	}
	w.etcd, err = trust.Open(trust.Config{
		Files: o.EtcdTLS, Fields: trust.Files{CA: "etcdCA", Cert: "etcdCert", Key: "etcdKey"}, Logger: log,
	})
	if err != nil {
		return wire{}, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	return w, nil
}

// etcdConfig is how etcd is reached.
func (w wire) etcdConfig(endpoints []string, log *slog.Logger) leases.Config {
	c := leases.Config{Endpoints: endpoints, Logger: log}
	if w.etcd != nil {
		var names []string
		for _, e := range endpoints {
			if u, err := url.Parse(e); err == nil { // leases checks them
				names = append(names, u.Hostname())
			}
		}
		c.TLS = w.etcd.Etcd(names...)
	}
	return c
}

// explain puts into words that etcd has refused our certificate.
func (w wire) explain(err error) error {
	if w.etcd == nil {
		return err
	}
	return w.etcd.Explain(err)
}

// EtcdConfig checks the options and says how they reach etcd: for the parent process,
// which speaks to etcd on its own.
func EtcdConfig(o Options) (leases.Config, error) {
	o, err := o.withDefaults()
	if err != nil {
		return leases.Config{}, err
	}
	w, err := o.open()
	if err != nil {
		return leases.Config{}, err
	}
	return w.etcdConfig(o.Etcd, o.Logger), nil
}

// apiURL is the base URL of the API of a worker at this address.
func (w wire) apiURL(address string) string {
	if w.own == nil {
		return "http://" + address
	}
	return "https://" + address
}

// serveAPI serves operators until the server is closed.
func (w *Worker) serveAPI(l net.Listener, s *http.Server) error {
	s.ErrorLog = log.New(&serverLog{w}, "", 0)
	if w.wire.own != nil {
		l = tls.NewListener(l, w.wire.own.Desk("h2", "http/1.1"))
	}
	return s.Serve(l)
}

// serverLog takes what net/http has to say; it has no other ear for failed handshakes.
type serverLog struct{ w *Worker }

func (s *serverLog) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if rest, ok := strings.CutPrefix(text, "http: TLS handshake error from "); ok && s.w.wire.own != nil {
		// The peer's address holds colons but no blank.
		if peer, why, ok := strings.Cut(rest, ": "); ok {
			s.w.wire.own.Refused("operators", peer, errors.New(why))
			return len(line), nil
		}
	}
	s.w.log.Warn("operator connection", "cause", text)
	return len(line), nil
}

// forward carries requests to other workers: only to one on record, only if its
// certificate is that worker's. nil is plaintext.
func (w *Worker) forward() http.RoundTripper {
	if w.wire.own == nil {
		return nil
	}
	dial := (&net.Dialer{Timeout: 2 * time.Second}).DialContext
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			id := w.view.workerAt(address)
			if id == "" {
				return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("no worker is on record at %s", address)}
			}
			return w.wire.own.Dial(ctx, dial, network, address, trust.Peer{Role: trust.Worker, ID: id})
		},
		MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
	}
}

// workerAt is the id of the live worker whose API has this address, empty if there is none.
func (v *view) workerAt(address string) string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for id, m := range v.workers {
		if m.Val.API == address {
			return id
		}
	}
	return ""
}

// certificates are this worker's, by the role they play.
func (w *Worker) certificates() map[string]*trust.Source {
	all := map[string]*trust.Source{}
	if w.wire.own != nil {
		all["worker"] = w.wire.own
	}
	if w.wire.etcd != w.wire.own {
		all["etcd"] = w.wire.etcd
	}
	return all
}

// watchCertificates raises warnings about this worker's own certificates in time.
func (w *Worker) watchCertificates(ctx context.Context) error {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		w.warnCertificates(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// The warnings about certificates.
const (
	certificateExpired  = "CertificateExpired"
	certificateExpiring = "CertificateExpiring"
	certificateUnusable = "CertificateFilesUnusable"
)

func (w *Worker) warnCertificates(now time.Time) {
	said := map[string][]string{}
	add := func(code, format string, args ...any) { said[code] = append(said[code], fmt.Sprintf(format, args...)) }
	for role, s := range w.certificates() {
		c := s.State()
		end := c.NotAfter.UTC().Format(time.RFC3339)
		switch {
		case now.After(c.NotAfter):
			add(certificateExpired, "the %s certificate has expired at %s: others refuse this worker until its files are renewed", role, end)
		case now.Before(c.NotBefore):
			add(certificateExpired, "the %s certificate is not valid before %s: others refuse this worker; is the clock right?", role, c.NotBefore.UTC().Format(time.RFC3339))
		case c.Expiring(now):
			add(certificateExpiring, "the %s certificate ends at %s and was not renewed yet", role, end)
		}
		if c.Err != nil {
			add(certificateUnusable, "new files of the %s certificate cannot be used, the old one stays until %s: %v", role, end, c.Err)
		}
	}
	for code, severity := range map[string]string{certificateExpired: "critical", certificateExpiring: "warning", certificateUnusable: "warning"} {
		if texts := said[code]; len(texts) > 0 {
			w.health.set(code, severity, strings.Join(texts, "; "))
		} else {
			w.health.clear(code)
		}
	}
}
