// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/sealed"
)

const (
	maxPassword = 1024
	maxUser     = 256
)

// declared finds a device on record, as it is effective.
func (b *backend) declared(host, name string) (versioned[v1.HostSpec], device, error) {
	spec, ok := b.view.spec(host)
	if !ok {
		return spec, device{}, notFound("host", host)
	}
	all := b.w().devices(spec.Val, b.view.profile(spec.Val.Partition, host))
	i := slices.IndexFunc(all, func(d device) bool { return d.Name == name })
	if i < 0 {
		return spec, device{}, notFound("device", host+"/"+name)
	}
	return spec, all[i], nil
}

// Secret implements api.Backend. A record whose device is not declared any more is told of.
func (b *backend) Secret(_ context.Context, host, device string) (v1.SecretStatus, error) {
	_, d, err := b.declared(host, device)
	rec, ok := get(b.view, b.view.secrets, leases.SecretKey(host, device))
	if err != nil && !ok {
		return v1.SecretStatus{}, err
	}
	return b.secretStatus(host, device, d.Secret, rec), nil
}

func (b *backend) secretStatus(host, device, ref string, rec versioned[secretRecord]) v1.SecretStatus {
	s := v1.SecretStatus{Host: host, Device: device, Ref: ref}
	if rec.Rev == 0 {
		return s
	}
	s.Set, s.At, s.By, s.Tested, s.Revision, s.Readable = true, rec.Val.At, rec.Val.By, rec.Val.Tested, rec.Rev, "yes"
	if t, err := sealed.Parse(rec.Val.Sealed); err == nil {
		s.Key = t.Key
	}
	s.Newest = s.Key != "" && s.Key == b.ring.Ring().Newest()
	plain, err := b.w().unseal(leases.SecretKey(host, device), rec.Val.Sealed)
	clear(plain)
	if err != nil {
		s.Readable = err.Error()
	}
	return s
}

// Secrets implements api.Backend.
func (b *backend) Secrets(context.Context) ([]v1.SecretStatus, error) {
	records := b.view.sealedRecords()
	var out []v1.SecretStatus
	for host, spec := range b.view.hosts() {
		for _, d := range b.w().devices(spec.Val, b.view.profile(spec.Val.Partition, host)) {
			key := leases.SecretKey(host, d.Name)
			if rec, ok := records[key]; ok || d.Secret == wpower.SealedRef {
				out = append(out, b.secretStatus(host, d.Name, d.Secret, rec))
				delete(records, key)
			}
		}
	}
	for key, rec := range records { // of devices that are not declared any more
		host, device, _ := strings.Cut(strings.TrimPrefix(key, leases.SecretsPrefix), "/")
		out = append(out, b.secretStatus(host, device, "", rec))
	}
	return out, nil
}

// checkCredentials names what no device could be given.
func checkCredentials(r v1.SecretRequest) error {
	if n := len(r.Password); n == 0 || n > maxPassword {
		return badField("password", fmt.Sprintf("password: %d bytes, allowed are 1 to %d", n, maxPassword))
	}
	if len(r.User) > maxUser {
		return badField("user", fmt.Sprintf("user: %d bytes, allowed are at most %d", len(r.User), maxUser))
	}
	if bytes.ContainsAny(r.Password, "\x00\r\n") {
		return badField("password", "password: contains a zero byte or a line break, allowed is anything else")
	}
	if strings.ContainsAny(r.User, "\x00\r\n") || strings.HasPrefix(r.User, "env:") || strings.HasPrefix(r.User, "file:") {
		return badField("user", "user: allowed is a plain name")
	}
	return nil
}

// PutSecret implements api.Backend: the new credentials are tried on the device first;
// only what it accepts replaces what is on record (power.md §9.3).
func (b *backend) PutSecret(ctx context.Context, who, host, device string, r v1.SecretRequest, ifRev int64) (v1.SecretStatus, error) {
	what, key := "secret of "+host+"/"+device, leases.SecretKey(host, device)
	spec, d, err := b.declared(host, device)
	if err == nil {
		err = checkCredentials(r)
	}
	if err != nil {
		return v1.SecretStatus{}, err
	}
	b.ring.Refresh()
	ring := b.ring.Ring()
	if ring.Newest() == "" {
		why := "keyRing is not configured"
		if err := b.ring.Err(); err != nil {
			why = err.Error()
		}
		return v1.SecretStatus{}, refused(fmt.Sprintf("%s: worker %s has no key to seal with: %s", what, b.o.ID, why), "holdfast secret keygen FILE, give the file to every worker, and name it in keyRing")
	}
	had, err := b.secretRevision(ctx, key)
	if err != nil {
		return v1.SecretStatus{}, etcdProblem(what, err)
	}
	if ifRev >= 0 && ifRev != had {
		return v1.SecretStatus{}, etcdProblem(what, &leases.ConflictError{Key: key, Want: ifRev, Have: had})
	}
	t, err := b.candidate(ctx, host, d, r)
	var p *v1.Problem
	if errors.As(err, &p) {
		return v1.SecretStatus{}, err
	} else if err != nil {
		return v1.SecretStatus{}, badField("password", fmt.Sprintf("%s: %v", what, err))
	}
	dry := api.DryRun(ctx) != nil
	if !r.NoTest && !dry {
		if err := b.tryCredentials(ctx, who, spec.Val.Partition, t); err != nil {
			return v1.SecretStatus{}, err
		}
	}
	plain := slices.Concat([]byte(r.User), []byte{0}, r.Password)
	defer clear(plain)
	text, err := ring.Seal(key, plain)
	if err != nil {
		return v1.SecretStatus{}, fmt.Errorf("%s: %w", what, err)
	}
	rec := secretRecord{V: 1, Sealed: text, By: who, At: time.Now().UTC().Truncate(time.Second), Tested: !r.NoTest}
	verb := "set"
	if had > 0 {
		verb = "replaced"
	}
	how := "after a good test on the device"
	if r.NoTest {
		how = "without a test"
	}
	x := b.audit("secret.set", who, fmt.Sprintf("%s was %s %s, sealed under key %s", what, verb, how, ring.Newest()), "")
	x.Host, x.Partition = host, spec.Val.Partition
	// Compared with the declaration too: what was tested is what the secret is for.
	rev, err := b.write(ctx, what, leases.Unowned().At(key, had).At(leases.HostSpecKey(host), spec.Rev), x, leases.Put(key, rec))
	if err != nil {
		return v1.SecretStatus{}, err
	}
	s := b.secretStatus(host, device, d.Secret, versioned[secretRecord]{Rev: max(rev, 1), Val: rec})
	s.Revision = rev
	if dry && !r.NoTest {
		s.Tested, s.Warnings = false, append(s.Warnings, "the device was not asked: only a change that is meant tries the credentials on it")
	}
	if d.Secret != wpower.SealedRef {
		s.Warnings = append(s.Warnings, fmt.Sprintf("the device takes its credentials from %q: declare it with secret: sealed to use this one", d.Secret))
	}
	return s, nil
}

// secretRevision is the revision of a secret as etcd has it, 0 for none.
func (b *backend) secretRevision(ctx context.Context, key string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kv, err := b.client.Get(ctx, key)
	if errors.Is(err, leases.ErrNotFound) {
		return 0, nil
	}
	return kv.ModRevision, err
}

// candidate is the device with the credentials of a request instead of its own. To be
// tested it needs its host's owner.
func (b *backend) candidate(ctx context.Context, host string, d device, r v1.SecretRequest) (target, error) {
	w := b.w()
	if d.driver == nil {
		_, err := w.drivers.Driver(d.Driver)
		return target{}, err
	}
	secret, err := wpower.NewLateSecret(d.User, w.o.SecretsDir, func() (string, string, error) { return r.User, string(r.Password), nil })
	if err != nil {
		return target{}, err
	}
	limits, pinned := wpower.Limits{}.WithDefaults(), power.Identity{}
	if !r.NoTest {
		if err := w.live(ctx, host, func(_ context.Context, o *owner) { limits, pinned = o.powerLimits(), o.pinned(d) }); err != nil {
			return target{}, err
		}
	}
	return w.targetWith(host, d, secret, pinned, limits)
}

// tryCredentials logs in to the device and reads it, as a power test does, in the
// device's turn. Nothing on record changes.
func (b *backend) tryCredentials(ctx context.Context, who, partition string, t target) error {
	t.test = true
	r := b.w().readDevice(ctx, t, wpower.Urgent)
	if r.err == nil {
		r.err = r.testErr
	}
	if r.err == nil {
		return nil
	}
	name := t.Host + "/" + t.Device
	x := b.audit("secret.refused", who, fmt.Sprintf("new secret of %s failed its test, nothing was replaced: %v", name, r.err), "")
	x.Host, x.Partition, x.Severity = t.Host, partition, string(ha.Warning)
	_, werr := b.write(ctx, "secret of "+name, leases.Unowned(), x)
	hint := "is the device reachable? Without a test: --no-test"
	switch wpower.KindOf(r.err) {
	case power.AuthFailed:
		hint = "check user and password; the device may lock the account after a few tries"
	case power.PrivilegeDenied:
		hint = "the account needs the privilege of an operator"
	case power.IdentityMismatch:
		hint = "another box answers at this address: is the declaration right?"
	case power.BadConfig:
		hint = "the device or its driver cannot take this password"
	}
	p := (&v1.Problem{Code: v1.CodeRefused, Detail: fmt.Sprintf("secret of %s: the test with the new credentials failed, nothing was replaced: %v", name, r.err), Hint: hint}).Complete()
	if werr != nil {
		p.Detail += fmt.Sprintf(" (and that could not be put into the log: %v)", werr)
	}
	return p
}

// DeleteSecret implements api.Backend.
func (b *backend) DeleteSecret(ctx context.Context, who, host, device string, ifRev int64) error {
	what, key := "secret of "+host+"/"+device, leases.SecretKey(host, device)
	had, err := b.secretRevision(ctx, key)
	if err != nil {
		return etcdProblem(what, err)
	}
	if had == 0 {
		return notFound("secret", host+"/"+device)
	}
	spec, _ := b.view.spec(host)
	x := b.audit("secret.deleted", who, what+" was deleted", "")
	x.Host, x.Partition = host, spec.Val.Partition
	_, err = b.write(ctx, what, at(key, ifRev, had), x, leases.Delete(key))
	return err
}

// Reseal implements api.Backend: each secret, keys of authorities and of hooks too, is opened, sealed under the newest key and
// replaced if nobody did meanwhile. It goes on after one that fails.
func (b *backend) Reseal(ctx context.Context, who string, limit int) (v1.ResealResult, error) {
	b.ring.Refresh()
	newest := b.ring.Ring().Newest()
	if newest == "" {
		return v1.ResealResult{}, refused(fmt.Sprintf("reseal: worker %s has no key ring", b.o.ID), "")
	}
	lctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kvs, _, err := b.client.List(lctx, leases.SecretsPrefix)
	if err != nil {
		return v1.ResealResult{}, etcdProblem("reseal", err)
	}
	authorities, _, err := b.client.List(lctx, leases.AuthoritiesPrefix)
	if err != nil {
		return v1.ResealResult{}, etcdProblem("reseal", err)
	}
	told, _, err := b.client.List(lctx, leases.HooksPrefix)
	if err != nil {
		return v1.ResealResult{}, etcdProblem("reseal", err)
	}
	told = slices.DeleteFunc(told, func(kv leases.KV) bool { return !bytes.Contains(kv.Value, []byte(`"sealed"`)) }) // programs have no secrets
	kvs = slices.Concat(kvs, authorities, told)
	res := v1.ResealResult{Key: newest, Total: len(kvs)}
	for _, kv := range kvs {
		name := strings.TrimPrefix(strings.TrimPrefix(kv.Key, leases.SecretsPrefix), leases.Root)
		var rec map[string]json.RawMessage
		var text string
		if kv.Decode(&rec) != nil || json.Unmarshal(rec["sealed"], &text) != nil {
			res.Failed = append(res.Failed, name+": unreadable record")
			continue
		}
		if t, err := sealed.Parse(text); err == nil && t.Key == newest {
			continue
		}
		if len(res.Done) >= limit || ctx.Err() != nil {
			res.Left++
			continue
		}
		if err := b.reseal(ctx, who, name, kv, rec, text); err != nil {
			res.Failed = append(res.Failed, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		res.Done = append(res.Done, name)
	}
	if api.DryRun(ctx) != nil {
		res.Left += len(res.Done)
	}
	return res, nil
}

func (b *backend) reseal(ctx context.Context, who, name string, kv leases.KV, rec map[string]json.RawMessage, text string) error {
	plain, err := b.w().unseal(kv.Key, text)
	defer clear(plain)
	if err != nil {
		return err
	}
	ring := b.ring.Ring()
	if text, err = ring.Seal(kv.Key, plain); err == nil {
		rec["sealed"], err = json.Marshal(text)
	}
	if err != nil {
		return err
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(kv.Key, leases.SecretsPrefix), "/")
	if !strings.HasPrefix(kv.Key, leases.SecretsPrefix) {
		host = ""
	}
	x := b.audit("secret.resealed", who, fmt.Sprintf("secret of %s was sealed anew under key %s", name, ring.Newest()), "")
	x.Host = host
	_, err = b.write(ctx, "secret of "+name, leases.Unowned().At(kv.Key, kv.ModRevision), x, leases.Put(kv.Key, rec))
	return err
}

// secretsOf are the deletions of the sealed secrets of a host's devices that are not
// declared any more: one that is declared anew starts without. Whatever the mirror has not
// seen yet goes, too; a secret that comes later conflicts with the declaration.
func (b *backend) secretsOf(host string, was, stays []v1.Device) (ops []leases.Op) {
	keys := map[string]bool{}
	for key := range b.view.sealedRecords() {
		if strings.HasPrefix(key, leases.SecretsPrefix+host+"/") {
			keys[key] = true
		}
	}
	for _, d := range was {
		keys[leases.SecretKey(host, d.Name)] = true
	}
	for _, d := range stays {
		delete(keys, leases.SecretKey(host, d.Name))
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		ops = append(ops, leases.Delete(key))
	}
	return ops
}
