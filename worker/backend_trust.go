// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/pki"
)

var _ api.Keeper = (*backend)(nil)

const (
	joinLife, maxJoinLife   = time.Hour, 7 * 24 * time.Hour
	tokenLife, maxTokenLife = 30 * 24 * time.Hour, 365 * 24 * time.Hour
	// overlap is how long a new authority is known before it signs.
	overlap = time.Minute
)

// Bearer implements api.Keeper.
func (b *backend) Bearer(t trust.Token, now time.Time) (api.Caller, bool) {
	return b.trusted.Bearer(t, now)
}

// lifetime reads how long something is to be good.
func lifetime(text string, usual, most time.Duration) (time.Duration, error) {
	if text == "" {
		return usual, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Minute || d > most {
		return 0, badField("for", fmt.Sprintf("for: %.40q, allowed are durations from 1m to %v", text, most))
	}
	return d, nil
}

// list reads all records below a prefix.
func list[T any](ctx context.Context, b *backend, what, prefix string, fn func(id string, rec T)) error {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kvs, _, err := b.client.List(ctx, prefix)
	if err != nil {
		return etcdProblem(what, err)
	}
	for _, kv := range kvs {
		rec, err := decodeAs[T](kv)
		if err != nil {
			return fmt.Errorf("decode %s: %w", kv.Key, err)
		}
		fn(strings.TrimPrefix(kv.Key, prefix), rec)
	}
	return nil
}

// forget deletes a record that must be there.
func (b *backend) forget(ctx context.Context, what, id, key string, x v1.Event) error {
	if err := leases.CheckID(what, id); err != nil {
		return badField("id", err.Error())
	}
	gctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kv, err := b.client.Get(gctx, key)
	if errors.Is(err, leases.ErrNotFound) {
		return notFound(what, id)
	} else if err != nil {
		return etcdProblem(what+" "+id, err)
	}
	_, err = b.write(ctx, what+" "+id, leases.Unowned().At(key, kv.ModRevision), x, leases.Delete(key))
	return err
}

// Tokens implements api.Keeper.
func (b *backend) Tokens(ctx context.Context) (out []v1.Token, err error) {
	err = list(ctx, b, "tokens", leases.TokensPrefix, func(id string, r tokenRecord) {
		out = append(out, v1.Token{ID: id, Name: r.Name, Role: r.Role, Expires: r.Expires, By: r.By, At: r.At, Reason: r.Reason})
	})
	return out, err
}

// CreateToken implements api.Keeper.
func (b *backend) CreateToken(ctx context.Context, who string, r v1.TokenRequest) (v1.Token, error) {
	if err := (trust.Identity{Role: trust.Operator, ID: r.Name}).Check(); err != nil {
		return v1.Token{}, badField("name", fmt.Sprintf("name: %v", err))
	}
	if !r.Role.Valid() {
		return v1.Token{}, badField("role", fmt.Sprintf("role: %.40q, allowed are viewer, operator and admin", r.Role))
	}
	life, err := lifetime(r.For, tokenLife, maxTokenLife)
	if err != nil {
		return v1.Token{}, err
	}
	t, now := trust.NewToken(), time.Now().UTC().Truncate(time.Second)
	rec := tokenRecord{V: 1, Hash: t.Hash(), Name: r.Name, Role: r.Role, Expires: now.Add(life), By: who, At: now, Reason: r.Reason}
	x := b.audit("token.created", who, fmt.Sprintf("token %s of %s with the role %s was made, good until %s", t.ID, r.Name, r.Role, rec.Expires.Format(time.RFC3339)), r.Reason)
	key := leases.TokenKey(t.ID)
	if _, err := b.write(ctx, "token "+t.ID, leases.Unowned().At(key, 0), x, leases.Put(key, rec)); err != nil {
		return v1.Token{}, err
	}
	out := v1.Token{ID: t.ID, Name: r.Name, Role: r.Role, Expires: rec.Expires, By: who, At: now, Reason: r.Reason}
	if api.DryRun(ctx) == nil {
		out.Secret = t.Bearer()
	}
	return out, nil
}

// RevokeToken implements api.Keeper.
func (b *backend) RevokeToken(ctx context.Context, who, id, reason string) error {
	return b.forget(ctx, "token", id, leases.TokenKey(id), b.audit("token.revoked", who, "token "+id+" was revoked", reason))
}

// JoinTokens implements api.Keeper.
func (b *backend) JoinTokens(ctx context.Context) (out []v1.JoinToken, err error) {
	err = list(ctx, b, "join tokens", leases.JoinsPrefix, func(id string, r joinRecord) {
		out = append(out, v1.JoinToken{ID: id, Host: r.Host, Expires: r.Expires, Used: r.Used, By: r.By, At: r.At, Reason: r.Reason})
	})
	return out, err
}

// CreateJoinToken implements api.Keeper.
func (b *backend) CreateJoinToken(ctx context.Context, who string, r v1.JoinTokenRequest) (v1.JoinToken, error) {
	if _, ok := b.view.spec(r.Host); !ok {
		return v1.JoinToken{}, notFound("host", r.Host)
	}
	life, err := lifetime(r.For, joinLife, maxJoinLife)
	if err != nil {
		return v1.JoinToken{}, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	if b.wire.own == nil {
		return v1.JoinToken{}, refused("join token: this worker speaks plaintext, hosts need no certificate here", "")
	}
	if _, _, ok := b.trusted.signer(now); !ok {
		return v1.JoinToken{}, refused("join token: the fleet has no authority of its own", "make one: holdfast cert authority create")
	}
	pin, err := b.wire.own.Pin()
	if err != nil {
		return v1.JoinToken{}, refused(fmt.Sprintf("join token: %v", err), "")
	}
	t := trust.NewToken()
	rec := joinRecord{V: 1, Hash: t.Hash(), Host: r.Host, Expires: now.Add(life), By: who, At: now, Reason: r.Reason}
	x := b.audit("join-token.created", who, fmt.Sprintf("join token %s for host %s was made, good until %s", t.ID, r.Host, rec.Expires.Format(time.RFC3339)), r.Reason)
	x.Host = r.Host
	key := leases.JoinKey(t.ID)
	if _, err := b.write(ctx, "join token "+t.ID, leases.Unowned().At(key, 0), x, leases.Put(key, rec)); err != nil {
		return v1.JoinToken{}, err
	}
	out := v1.JoinToken{ID: t.ID, Host: r.Host, Expires: rec.Expires, By: who, At: now, Reason: r.Reason}
	if api.DryRun(ctx) == nil {
		out.Secret = trust.JoinToken{Token: t, Pin: pin}.String()
	}
	return out, nil
}

// RevokeJoinToken implements api.Keeper.
func (b *backend) RevokeJoinToken(ctx context.Context, who, id, reason string) error {
	return b.forget(ctx, "join token", id, leases.JoinKey(id), b.audit("join-token.revoked", who, "join token "+id+" was revoked", reason))
}

// Authorities implements api.Keeper.
func (b *backend) Authorities(ctx context.Context) ([]v1.Authority, error) {
	now, current := time.Now(), map[string]int{}
	err := list(ctx, b, "certificates", leases.CertsPrefix, func(_ string, r certRecord) {
		if now.Before(r.NotAfter) {
			current[r.Authority]++
		}
	})
	if err != nil {
		return nil, err
	}
	signer, _, _ := b.trusted.signer(now)
	ids, all := b.trusted.list()
	var out []v1.Authority
	for _, id := range ids {
		a := authorityOf(id, all[id].Val, signer, now)
		a.Current, a.Readable = current[id], "yes"
		key, err := b.w().unseal(leases.AuthorityKey(id), all[id].Val.Sealed)
		clear(key)
		if err != nil {
			a.Readable = err.Error()
		}
		out = append(out, a)
	}
	return out, nil
}

func authorityOf(id string, r authorityRecord, signer string, now time.Time) v1.Authority {
	a := v1.Authority{ID: id, Signs: r.Signs, By: r.By, At: r.At, State: "accepted"}
	if c, err := x509.ParseCertificate(r.Cert); err == nil {
		a.NotBefore, a.NotAfter, a.Pin = c.NotBefore.UTC(), c.NotAfter.UTC(), trust.Pin(c)
	}
	switch {
	case !now.Before(a.NotAfter):
		a.State = "ended"
	case id == signer:
		a.State = "signs"
	case r.Signs.After(now):
		a.State = "waiting"
	}
	return a
}

// CreateAuthority implements api.Keeper. Its key is made here, sealed, and forgotten.
func (b *backend) CreateAuthority(ctx context.Context, who string, r v1.AuthorityRequest) (v1.Authority, error) {
	b.ring.Refresh()
	ring := b.ring.Ring()
	if ring.Newest() == "" {
		return v1.Authority{}, refused(fmt.Sprintf("authority: worker %s has no key ring to seal its key with", b.o.ID), "holdfast secret keygen FILE, give the file to every worker, and name it in keyRing")
	}
	now := time.Now().UTC().Truncate(time.Second)
	id := "a" + now.Format("20060102-150405")
	cert, private, err := pki.NewFleetAuthority("holdfast hosts "+id, now, pki.FleetLife)
	if err != nil {
		return v1.Authority{}, fmt.Errorf("make authority: %w", err)
	}
	defer clear(private)
	key := leases.AuthorityKey(id)
	text, err := ring.Seal(key, private)
	if err != nil {
		return v1.Authority{}, fmt.Errorf("make authority: %w", err)
	}
	rec := authorityRecord{V: 1, Cert: cert, Sealed: text, Signs: now, By: who, At: now}
	msg := "authority " + id + " was made, it signs hosts' certificates at once"
	if _, _, ok := b.trusted.signer(now); ok {
		rec.Signs = now.Add(overlap)
		msg = fmt.Sprintf("authority %s was made, it signs hosts' certificates from %s on; the others stay accepted", id, rec.Signs.Format(time.RFC3339))
	}
	x := b.audit("authority.created", who, msg, r.Reason)
	if _, err := b.write(ctx, "authority "+id, leases.Unowned().At(key, 0), x, leases.Put(key, rec)); err != nil {
		return v1.Authority{}, err
	}
	a := authorityOf(id, rec, "", now)
	if a.State = "waiting"; !rec.Signs.After(now) {
		a.State = "signs"
	}
	a.Readable = "yes"
	return a, nil
}

// RetireAuthority implements api.Keeper.
func (b *backend) RetireAuthority(ctx context.Context, who, id, reason string, force bool) error {
	all, err := b.Authorities(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(a v1.Authority) bool { return a.ID == id })
	if i < 0 {
		return notFound("authority", id)
	}
	switch a := all[i]; {
	case force:
	case a.State == "signs":
		return refused(fmt.Sprintf("authority %s signs: no host could join or renew without it", id), "make another first: holdfast cert authority create; or --force")
	case a.Current > 0:
		return refused(fmt.Sprintf("authority %s: %d certificates of it have not ended", id, a.Current), "hosts renew within 24h: wait, or --force, which cuts them off")
	}
	return b.forget(ctx, "authority", id, leases.AuthorityKey(id), b.audit("authority.retired", who, "authority "+id+" was retired, what it has signed is worth nothing", reason))
}

// Certificates implements api.Keeper.
func (b *backend) Certificates(ctx context.Context, host string) ([]v1.Certificate, error) {
	now, all := time.Now(), map[string]v1.Certificate{}
	err := list(ctx, b, "certificates", leases.CertsPrefix, func(serial string, r certRecord) {
		c := v1.Certificate{Serial: serial, Identity: r.Identity, Authority: r.Authority, How: r.How, At: r.At, NotAfter: r.NotAfter, State: "good"}
		if !now.Before(r.NotAfter) {
			c.State = "ended"
		}
		all[serial] = c
	})
	if err == nil {
		err = list(ctx, b, "revoked certificates", leases.RevokedPrefix, func(serial string, r revokedRecord) {
			c := all[serial]
			c.Serial, c.State, c.Revoked, c.RevokedBy, c.Reason = serial, "revoked", r.At, r.By, r.Reason
			c.Identity, c.NotAfter = orElse(c.Identity, r.Identity), r.NotAfter
			all[serial] = c
		})
	}
	if err != nil {
		return nil, err
	}
	out := slices.Collect(maps.Values(all))
	out = slices.DeleteFunc(out, func(c v1.Certificate) bool { return host != "" && c.Identity != "host/"+host })
	slices.SortFunc(out, func(a, b v1.Certificate) int {
		return cmp.Or(cmp.Compare(a.Identity, b.Identity), a.NotAfter.Compare(b.NotAfter), cmp.Compare(a.Serial, b.Serial))
	})
	return out, nil
}

var serialForm = regexp.MustCompile(`^[0-9a-f]{1,40}$`)

// plainSerial reads a serial as tools write it: hexadecimal, also with colons, capitals or
// leading zeros.
func plainSerial(s string) (string, error) {
	plain := strings.TrimLeft(strings.ToLower(strings.ReplaceAll(s, ":", "")), "0")
	if !serialForm.MatchString(plain) {
		return "", badField("serials", fmt.Sprintf("serials: %.60q, allowed is a serial number in hexadecimal", s))
	}
	return plain, nil
}

// maxRevoked is how many certificates one call revokes.
const maxRevoked = 100

// Revoke implements api.Keeper: one commit for each certificate, so that what was done
// before an error stays done.
func (b *backend) Revoke(ctx context.Context, who string, r v1.RevokeRequest) (out []v1.Certificate, err error) {
	known, err := b.Certificates(ctx, "")
	if err != nil {
		return nil, err
	}
	serials := []string{}
	for _, s := range r.Serials {
		plain, err := plainSerial(s)
		if err != nil {
			return nil, err
		}
		serials = append(serials, plain)
	}
	for _, c := range known {
		if r.Host != "" && c.Identity == "host/"+r.Host && c.State == "good" {
			serials = append(serials, c.Serial)
		}
	}
	switch {
	case len(r.Serials) == 0 && r.Host == "":
		return nil, badField("serials", "serials, host: both empty, one of them is needed")
	case len(serials) == 0:
		return nil, notFound("certificate of host", r.Host)
	case len(serials) > maxRevoked:
		return nil, badField("serials", fmt.Sprintf("serials: %d, allowed are %d at once", len(serials), maxRevoked))
	}
	now := time.Now().UTC().Truncate(time.Second)
	for _, serial := range slices.Compact(slices.Sorted(slices.Values(serials))) {
		c := v1.Certificate{Serial: serial}
		if i := slices.IndexFunc(known, func(c v1.Certificate) bool { return c.Serial == serial }); i >= 0 {
			c = known[i]
		}
		if c.State == "revoked" {
			out = append(out, c)
			continue
		}
		rec := revokedRecord{V: 1, Identity: c.Identity, Reason: r.Reason, By: who, At: now, NotAfter: c.NotAfter}
		x := b.audit("certificate.revoked", who, fmt.Sprintf("certificate %s of %s was revoked", serial, orElse(c.Identity, "somebody whom the fleet has not issued it to")), r.Reason)
		if host, ok := strings.CutPrefix(c.Identity, "host/"); ok {
			x.Host = host
		}
		key := leases.RevokedKey(serial)
		if _, err := b.write(ctx, "certificate "+serial, leases.Unowned().At(key, 0), x, leases.Put(key, rec)); err != nil {
			return out, err
		}
		c.State, c.Revoked, c.RevokedBy, c.Reason = "revoked", now, who, r.Reason
		out = append(out, c)
	}
	return out, nil
}

// trimTrust deletes what has ended: certificates, revocations of those, tokens, join
// tokens a day later, requests that were named, and old audit records. The owner of slot 0 does it for the fleet.
func (w *Worker) trimTrust(ctx context.Context) error {
	for pause(ctx, trimInterval) {
		w.mu.Lock()
		claim, mine := w.claims[0]
		s := w.session
		w.mu.Unlock()
		if !mine || s == nil {
			continue
		}
		ops, err := (*backend)(w).outlivedTrust(ctx, time.Now())
		for batch := range slices.Chunk(ops, trimBatch) {
			cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
			_, cerr := s.Commit(cctx, claim.Guard(), batch...)
			cancel()
			if err = errors.Join(err, cerr); cerr != nil {
				break
			}
		}
		if err != nil {
			w.log.Warn("trim certificates and audit log", "cause", err)
		}
	}
	return nil
}

func (b *backend) outlivedTrust(ctx context.Context, now time.Time) (ops []leases.Op, _ error) {
	drop := func(key string, end time.Time) {
		if !end.IsZero() && now.After(end) {
			ops = append(ops, leases.Delete(key))
		}
	}
	// A clock that is a little behind must not find a revoked certificate good again.
	late := func(t time.Time) time.Time {
		if t.IsZero() {
			return t
		}
		return t.Add(24 * time.Hour)
	}
	err := errors.Join(
		list(ctx, b, "certificates", leases.CertsPrefix, func(id string, r certRecord) { drop(leases.CertKey(id), r.NotAfter) }),
		list(ctx, b, "revoked certificates", leases.RevokedPrefix, func(id string, r revokedRecord) { drop(leases.RevokedKey(id), late(r.NotAfter)) }),
		list(ctx, b, "requests", leases.RequestsPrefix, func(id string, r api.Repeat) { drop(leases.RequestKey(id), r.At.Add(maxRequestAge)) }),
		list(ctx, b, "tokens", leases.TokensPrefix, func(id string, r tokenRecord) { drop(leases.TokenKey(id), r.Expires) }),
		list(ctx, b, "join tokens", leases.JoinsPrefix, func(id string, r joinRecord) { drop(leases.JoinKey(id), late(r.Expires)) }),
	)
	audits, aerr := b.audits(ctx)
	for i, a := range audits {
		if i >= maxAudits || now.Sub(a.At) > maxAuditAge {
			ops = append(ops, leases.Delete(leases.AuditKey(a.ID)))
		}
	}
	return ops, errors.Join(err, aerr)
}
