// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

const (
	keySize = 32 // AES-256
	maxKeys = 64
)

// ErrUnknownKey is a text sealed under a key that the ring does not have.
var ErrUnknownKey = errors.New("the key ring does not have this key")

// ErrNotOpened is a text that is damaged, was sealed for another place, or under another
// key of the same id.
var ErrNotOpened = errors.New("not sealed for this place with this key, or damaged")

// Ring is a set of keys; the first seals, all open. It never changes: a new file makes a
// new Ring. The nil Ring has no keys.
type Ring struct {
	ids  []string
	keys map[string]cipher.AEAD
}

// ParseRing reads a ring file: a line `<id> <base64 of 32 bytes>` for each key; empty
// lines and those that begin with # are passed over. Errors name the line, never its key.
func ParseRing(file []byte) (*Ring, error) {
	r := &Ring{keys: map[string]cipher.AEAD{}}
	n := 0
	for line := range strings.Lines(string(file)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 2 || !keyID.MatchString(f[0]) {
			return nil, fmt.Errorf("line %d: allowed is an id of 1 to 32 letters, digits, '.', '_' or '-' and, after a blank, a key in base64", n)
		}
		if r.keys[f[0]] != nil {
			return nil, fmt.Errorf("line %d: key %s is there twice", n, f[0])
		}
		key, err := base64.StdEncoding.Strict().DecodeString(f[1])
		if err != nil || len(key) != keySize {
			clear(key)
			return nil, fmt.Errorf("line %d: key %s is not the base64 of %d bytes", n, f[0], keySize)
		}
		aead, err := newAEAD(key)
		clear(key)
		if err != nil {
			return nil, fmt.Errorf("line %d: key %s: %w", n, f[0], err)
		}
		r.ids, r.keys[f[0]] = append(r.ids, f[0]), aead
	}
	if len(r.ids) == 0 || len(r.ids) > maxKeys {
		return nil, fmt.Errorf("%d keys, allowed are 1 to %d", len(r.ids), maxKeys)
	}
	return r, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(b)
}

// Newest is the id of the key that seals; empty for a ring without keys.
func (r *Ring) Newest() string {
	if r == nil || len(r.ids) == 0 {
		return ""
	}
	return r.ids[0]
}

// IDs are the ids of all keys, the newest first.
func (r *Ring) IDs() []string {
	if r == nil {
		return nil
	}
	return append([]string(nil), r.ids...)
}

// Seal encrypts plain under the newest key, for one place. The caller clears plain.
func (r *Ring) Seal(place string, plain []byte) (string, error) {
	id := r.Newest()
	if id == "" {
		return "", errors.New("seal: the key ring has no key")
	}
	t := Text{Key: id, data: r.keys[id].Seal(nil, nil, plain, []byte(place))}
	s := t.String()
	if len(s) > maxText {
		return "", fmt.Errorf("seal: %d bytes when sealed, allowed are %d", len(s), maxText)
	}
	return s, nil
}

// Open decrypts a text kept at a place: ErrUnknownKey, ErrNotOpened, or an error of Parse.
// The caller clears what it gets.
func (r *Ring) Open(place, text string) ([]byte, error) {
	t, err := Parse(text)
	if err != nil {
		return nil, err
	}
	var aead cipher.AEAD
	if r != nil {
		aead = r.keys[t.Key]
	}
	if aead == nil {
		return nil, fmt.Errorf("sealed text: key %s: %w", t.Key, ErrUnknownKey)
	}
	plain, err := aead.Open(nil, nil, t.data, []byte(place))
	if err != nil {
		return nil, fmt.Errorf("sealed text: key %s: %w", t.Key, ErrNotOpened)
	}
	return plain, nil
}

// String names the ids only.
func (r *Ring) String() string { return "ring of " + strings.Join(r.IDs(), ", ") }

// GoString and Format keep keys out of %#v and the like.
func (r *Ring) GoString() string             { return r.String() }
func (r *Ring) Format(f fmt.State, _ rune)   { fmt.Fprint(f, r.String()) }
func (r *Ring) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
func (r *Ring) LogValue() slog.Value         { return slog.StringValue(r.String()) }
