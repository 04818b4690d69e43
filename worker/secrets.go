// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/sealed"
)

// secretRecord is the value of secrets/<host>/<device>. Sealed holds user and password,
// with the key of the record as additional data.
type secretRecord struct {
	V      int       `json:"v"`
	Sealed string    `json:"sealed"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Tested bool      `json:"tested,omitempty"`
}

// secretsUnreadable is the warning about sealed secrets that this worker cannot open; it
// is also named in the error of each device concerned.
const secretsUnreadable = "SecretsUnreadable"

const ringCheck = 2 * time.Second

// errSealed is a sealed secret that is not there or cannot be opened here: no fault of
// what declares the device.
var errSealed = errors.New("sealed secret")

// secretOf is where a device's credentials come from; one without user and secret has
// none, and its driver says whether it needs any.
func (w *Worker) secretOf(host string, d v1.Device) (wpower.Secret, error) {
	if d.User == "" && d.Secret == "" {
		return wpower.Secret{}, nil
	}
	if d.Secret != wpower.SealedRef {
		return wpower.NewSecret(d.User, d.Secret, w.o.SecretsDir)
	}
	return wpower.NewLateSecret(d.User, w.o.SecretsDir, func() (string, string, error) { return w.openSecret(host, d.Name) })
}

// sealedAs changes with a device's sealed secret, and when it becomes readable here: then
// the device is tested as a new one is.
func (w *Worker) sealedAs(host string, d v1.Device) string {
	if d.Secret != wpower.SealedRef {
		return ""
	}
	rec, ok := get(w.view, w.view.secrets, leases.SecretKey(host, d.Name))
	t, err := sealed.Parse(rec.Val.Sealed)
	if !ok || err != nil {
		return ""
	}
	return fmt.Sprintf("%d %t", rec.Rev, slices.Contains(w.ring.Ring().IDs(), t.Key))
}

// openSecret opens the sealed secret of a device as it is on record now.
func (w *Worker) openSecret(host, device string) (user, password string, err error) {
	key := leases.SecretKey(host, device)
	rec, ok := get(w.view, w.view.secrets, key)
	if !ok {
		return "", "", fmt.Errorf("%w: none is on record; set it: holdfast power secret set %s %s", errSealed, host, device)
	}
	plain, err := w.unseal(key, rec.Val.Sealed)
	if err != nil {
		return "", "", fmt.Errorf("%w: %s: %w", errSealed, secretsUnreadable, err)
	}
	defer clear(plain)
	u, p, ok := bytes.Cut(plain, []byte{0})
	if !ok {
		return "", "", fmt.Errorf("%w: %s: what was sealed is no user and password", errSealed, secretsUnreadable)
	}
	return string(u), string(p), nil
}

// unseal opens a text; where its key is not known the ring file is looked at once more.
func (w *Worker) unseal(key, text string) ([]byte, error) {
	plain, err := w.ring.Ring().Open(key, text)
	if errors.Is(err, sealed.ErrUnknownKey) && w.ring.Refresh() {
		plain, err = w.ring.Ring().Open(key, text)
	}
	return plain, err
}

// unreadable are the sealed secrets that this worker cannot open, by host/device.
func (w *Worker) unreadable() map[string]error {
	out := map[string]error{}
	for key, rec := range w.view.sealedRecords() {
		plain, err := w.unseal(key, rec.Val.Sealed)
		clear(plain)
		if err != nil {
			out[strings.TrimPrefix(key, leases.SecretsPrefix)] = err
		}
	}
	return out
}

// sealedRecords lists the sealed secrets by their keys.
func (v *view) sealedRecords() map[string]versioned[secretRecord] {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return maps.Clone(v.secrets)
}

// watchSecrets takes new key rings over and warns of secrets that cannot be opened here.
func (w *Worker) watchSecrets(ctx context.Context) error {
	t := time.NewTicker(ringCheck)
	defer t.Stop()
	var bad map[string]error
	for last := int64(-1); ; {
		changed := w.ring.Refresh()
		// A ring file that cannot be used is told of as soon as it is met.
		if now := w.secretsVersion.Load(); changed || now != last || w.ring.Err() != nil {
			was := bad
			bad, last = w.unreadable(), now
			w.warnSecrets(bad)
			if changed {
				w.log.Info("key ring read", "keys", w.ring.Ring().IDs())
				w.wakeSealed(was, bad)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// warnSecrets raises or clears SecretsUnreadable.
func (w *Worker) warnSecrets(bad map[string]error) {
	w.metrics.unreadable.Set(float64(len(bad)))
	var said []string
	if err := w.ring.Err(); err != nil {
		said = append(said, err.Error())
		if w.ring.Ring() != nil {
			said[0] += "; the one read before is in use until this worker ends"
		}
	}
	if len(bad) > 0 {
		names := slices.Sorted(maps.Keys(bad))
		text := fmt.Sprintf("%d sealed secrets cannot be opened here, their devices read UNKNOWN and cannot fence: %s (%v)", len(bad), strings.Join(names[:min(3, len(names))], ", "), bad[names[0]])
		if w.o.KeyRing == "" {
			text += "; keyRing is not configured"
		}
		said = append(said, text)
	}
	if len(said) == 0 {
		w.health.clear(secretsUnreadable)
		return
	}
	severity := "warning"
	if len(bad) > 0 {
		severity = "critical"
	}
	w.health.set(secretsUnreadable, severity, strings.Join(said, "; "))
}

// secretChanged tells an owner to read its devices at once: credentials have changed.
type secretChanged struct{}

// wakeSealed tells the owners of hosts whose secrets could not be opened, or cannot now;
// all others have nothing to look at.
func (w *Worker) wakeSealed(was, now map[string]error) {
	for _, names := range []map[string]error{was, now} {
		for name := range names {
			host, _, _ := strings.Cut(name, "/")
			w.wakeOwner(host)
		}
	}
}

func (w *Worker) wakeOwner(host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.owners[host]; o != nil {
		o.in.put("secret", secretChanged{})
	}
}
