// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"slices"

	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// NewestKey is the key that a Fleet seals with.
const NewestKey = "k2"

// device finds a declared device; the caller holds Mu.
func (f *Fleet) device(host, name string) (v1.Device, error) {
	h, ok := f.HostMap[host]
	if !ok {
		return v1.Device{}, missing("host", host)
	}
	i := slices.IndexFunc(h.Spec.Power, func(d v1.Device) bool { return d.Name == name })
	if i < 0 {
		return v1.Device{}, v1.Problemf(v1.CodeNotFound, "device %s of host %s: not found", name, host)
	}
	return h.Spec.Power[i], nil
}

func (f *Fleet) Secret(_ context.Context, host, device string) (v1.SecretStatus, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	d, err := f.device(host, device)
	if err != nil {
		return v1.SecretStatus{}, err
	}
	s, ok := f.SecretMap[host+"/"+device]
	if !ok {
		s = v1.SecretStatus{Host: host, Device: device}
	}
	s.Ref = d.Secret
	return s, nil
}

func (f *Fleet) Secrets(context.Context) ([]v1.SecretStatus, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	var out []v1.SecretStatus
	for _, s := range f.SecretMap {
		out = append(out, s)
	}
	return out, nil
}

// PutSecret takes every password but "wrong", which no device accepts.
func (f *Fleet) PutSecret(ctx context.Context, who, host, device string, r v1.SecretRequest, rev int64) (v1.SecretStatus, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	d, err := f.device(host, device)
	if err != nil {
		return v1.SecretStatus{}, err
	}
	id := host + "/" + device
	if err := check("secret of "+id, f.SecretMap[id].Revision, rev); err != nil {
		return v1.SecretStatus{}, err
	}
	if len(r.Password) == 0 {
		return v1.SecretStatus{}, v1.BadField("password", "empty, allowed are 1 to 1024 bytes")
	}
	if !r.NoTest && string(r.Password) == "wrong" {
		return v1.SecretStatus{}, v1.Problemf(v1.CodeRefused, "secret of %s: the device does not accept the new credentials, nothing was replaced", id)
	}
	f.Revision++
	s := v1.SecretStatus{Host: host, Device: device, Ref: d.Secret, Set: true, Key: NewestKey, Newest: true, Readable: "yes", At: Start, By: who, Tested: !r.NoTest, Revision: f.Revision}
	f.SecretMap[id] = s
	f.note(who, "put secret %s %q %d bytes, no test %t", id, r.User, len(r.Password), r.NoTest)
	return s, nil
}

func (f *Fleet) DeleteSecret(ctx context.Context, who, host, device string, rev int64) error {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	id := host + "/" + device
	s, ok := f.SecretMap[id]
	if !ok {
		return v1.Problemf(v1.CodeNotFound, "secret of %s: not set", id)
	}
	if err := check("secret of "+id, s.Revision, rev); err != nil {
		return err
	}
	delete(f.SecretMap, id)
	f.note(who, "delete secret %s", id)
	return nil
}

func (f *Fleet) Reseal(ctx context.Context, who string, limit int) (v1.ResealResult, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	r := v1.ResealResult{Key: NewestKey, Total: len(f.SecretMap)}
	for id, s := range f.SecretMap {
		switch {
		case s.Newest:
		case len(r.Done) == limit:
			r.Left++
		default:
			r.Done = append(r.Done, id)
		}
	}
	slices.Sort(r.Done)
	if api.DryRun(ctx) != nil {
		r.Left += len(r.Done)
		return r, nil
	}
	for _, id := range r.Done {
		s := f.SecretMap[id]
		s.Key, s.Newest = NewestKey, true
		f.SecretMap[id] = s
		f.note(who, "reseal %s", id)
	}
	return r, nil
}
