// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/link"
	"github.com/holdfast-ha/holdfast/worker/pki"
)

// issuer gives hosts their certificates (agents.md "Trust"). Any worker that has the key
// ring can.
type issuer Worker

var _ link.Issuer = (*issuer)(nil)

func denied(format string, args ...any) error {
	return fmt.Errorf("%w: %s", link.ErrDenied, fmt.Sprintf(format, args...))
}

// Join implements link.Issuer. A token is used up by the commit that records the
// certificate; the key that has used it may ask again until the token ends, for its answer
// may have been lost.
func (i *issuer) Join(ctx context.Context, host string, token trust.Token, csr []byte) (*agentpb.Issued, error) {
	w := (*Worker)(i)
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	key, print, err := pki.RequestKey(csr)
	if err != nil {
		return nil, denied("%v", err)
	}
	if err := leases.CheckID("join token", token.ID); err != nil {
		return nil, denied("%v", err)
	}
	at := leases.JoinKey(token.ID)
	kv, err := w.client.Get(ctx, at)
	if errors.Is(err, leases.ErrNotFound) {
		return nil, denied("the join token is not known")
	} else if err != nil {
		return nil, fmt.Errorf("read join token: %w", err)
	}
	rec, err := decodeAs[joinRecord](kv)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", at, err)
	}
	now := time.Now().UTC()
	switch {
	case !token.Is(rec.Hash):
		return nil, denied("the join token is not known")
	case rec.Host != host:
		return nil, denied("join token %s is not for host %.70q", token.ID, host)
	case !now.Before(rec.Expires):
		return nil, denied("join token %s has ended at %s", token.ID, rec.Expires.Format(time.RFC3339))
	case !rec.Used.IsZero() && rec.Key != print:
		return nil, denied("join token %s was used at %s", token.ID, rec.Used.Format(time.RFC3339))
	}
	issued, cert, op, err := w.issue(host, key, "join token "+token.ID, now)
	if err != nil {
		return nil, err
	}
	if rec.Used.IsZero() {
		rec.Used, rec.Key = now, print
	}
	x := (*backend)(w).audit("host.joined", "host/"+host, fmt.Sprintf("host %s got a certificate for join token %s, serial %s", host, token.ID, trust.Serial(cert)), "")
	x.Host, x.Severity = host, string(ha.Info)
	if _, err := (*backend)(w).write(ctx, "join token "+token.ID, leases.Unowned().At(at, kv.ModRevision), x, leases.Put(at, rec), op); err != nil {
		return nil, err
	}
	return issued, nil
}

// Renew implements link.Issuer: host is whom the client certificate stands for.
func (i *issuer) Renew(ctx context.Context, host string, csr []byte) (*agentpb.Issued, error) {
	w := (*Worker)(i)
	key, _, err := pki.RequestKey(csr)
	if err != nil {
		return nil, denied("%v", err)
	}
	now := time.Now().UTC()
	if !w.renewing.allow(host, now) {
		return nil, denied("host %s has renewed its certificate a moment ago", host)
	}
	issued, _, op, err := w.issue(host, key, "renewal", now)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	if _, err := w.client.Commit(ctx, leases.Unowned(), op); err != nil {
		return nil, fmt.Errorf("record certificate: %w", err)
	}
	return issued, nil
}

// renewEvery is how often a host may be given a certificate by one worker.
const renewEvery = 10 * time.Second

// pacer remembers who came when, for as long as it matters.
type pacer struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func newPacer() pacer { return pacer{last: map[string]time.Time{}} }

func (p *pacer) allow(who string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.last) > 10_000 {
		for name, at := range p.last {
			if now.Sub(at) >= renewEvery {
				delete(p.last, name)
			}
		}
	}
	if at, found := p.last[who]; found && now.Sub(at) < renewEvery {
		return false
	}
	p.last[who] = now
	return true
}

// issue signs a certificate of a host that is on record, and says how it is recorded.
func (w *Worker) issue(host string, key crypto.PublicKey, how string, now time.Time) (*agentpb.Issued, *x509.Certificate, leases.Op, error) {
	none := leases.Op{}
	if _, ok := w.view.spec(host); !ok {
		return nil, nil, none, denied("host %.70q is not on record", host)
	}
	if w.wire.own == nil {
		return nil, nil, none, denied("this worker speaks plaintext")
	}
	id, rec, ok := w.trusted.signer(now)
	if !ok {
		return nil, nil, none, denied("the fleet has no authority of its own: holdfast cert authority create")
	}
	private, err := w.unseal(leases.AuthorityKey(id), rec.Sealed)
	if err != nil {
		return nil, nil, none, fmt.Errorf("open key of authority %s: %w", id, err)
	}
	defer clear(private)
	cert, err := pki.SignHost(rec.Cert, private, host, key, now)
	if err != nil {
		return nil, nil, none, err
	}
	out := &agentpb.Issued{Certificate: cert.Raw, Authorities: w.wire.own.Authorities()}
	_, all := w.trusted.list()
	for _, a := range all {
		out.Authorities = append(out.Authorities, a.Val.Cert)
	}
	return out, cert, leases.Put(leases.CertKey(trust.Serial(cert)), certRecord{
		V: 1, Identity: trust.Identity{Role: trust.Host, ID: host}.String(), Authority: id, How: how, At: now, NotAfter: cert.NotAfter,
	}), nil
}

// trustChanged is told by the mirror.
func (w *Worker) trustChanged(c leases.Change) {
	if err := w.trusted.apply(c); err != nil {
		w.log.Error("unreadable record", "key", c.Key, "cause", err)
	}
}

// lateStreams is when all streams that were admitted before a change have said what they are
// for, or have been ended. Those of an authority retired meanwhile are found then; those of a
// revoked certificate are refused at once.
const lateStreams = 15 * time.Second

// watchTrust lets handshakes know of authorities and revocations, and cuts the links of
// certificates that are worth nothing any more.
func (w *Worker) watchTrust(ctx context.Context) error {
	look := time.NewTicker(time.Minute)
	defer look.Stop()
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			w.warnAuthority(time.Now())
			continue
		case <-w.trusted.changed:
			w.warnAuthority(time.Now())
			again = time.After(lateStreams)
		case <-again:
			again = nil
		}
		if w.wire.own == nil {
			continue
		}
		known := w.trusted.known()
		w.wire.own.Know(known)
		cut := w.door.CutCertificates(func(shown []*x509.Certificate) bool {
			_, err := w.wire.own.Client(shown, trust.Host, trust.Worker)
			var refused *trust.PeerError
			return errors.As(err, &refused) && (refused.Reason == trust.Revoked || refused.Reason == trust.ForeignCA || refused.Reason == trust.Expired && w.trusted.revokes(shown[0]))
		})
		for _, peer := range cut {
			w.log.Warn("link cut, its certificate is worth nothing any more", "peer", peer)
		}
		w.door.Revoked(w.trusted.revokedWorkers())
	}
}

// The warnings about the fleet's own authority.
const (
	authorityEnding     = "AuthorityEnding"
	authorityUnreadable = "AuthorityUnreadable"
)

// warnAuthority tells in time that hosts will not be able to renew.
func (w *Worker) warnAuthority(now time.Time) {
	say := func(code, text string) {
		if text == "" {
			w.health.clear(code)
		} else {
			w.health.set(code, "warning", text)
		}
	}
	var ending, unreadable string
	if id, rec, ok := w.trusted.signer(now); ok {
		if c, err := x509.ParseCertificate(rec.Cert); err == nil && c.NotAfter.Sub(now) < 30*24*time.Hour {
			ending = fmt.Sprintf("authority %s, which signs hosts' certificates, ends at %s: holdfast cert authority create", id, c.NotAfter.UTC().Format(time.RFC3339))
		}
		key, err := w.unseal(leases.AuthorityKey(id), rec.Sealed)
		clear(key)
		if err != nil {
			unreadable = fmt.Sprintf("the key of authority %s cannot be opened here, hosts cannot join or renew at this worker: %v", id, err)
		}
	}
	say(authorityEnding, ending)
	say(authorityUnreadable, unreadable)
}

// revokes says whether some certificate of the same holder is revoked: a link that has
// outlived its own certificate must show the present one then.
func (t *trusted) revokes(c *x509.Certificate) bool {
	id, err := trust.Of(c)
	if err != nil {
		return true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, r := range t.revoked {
		if r.Val.Identity == id.String() {
			return true
		}
	}
	return false
}

// apiRate is how many requests a second one caller may send.
func (w *Worker) apiRate() int { return w.view.effective("", "", time.Now()).Int("api.rate") }
