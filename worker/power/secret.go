// SPDX-License-Identifier: Apache-2.0

package power

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

const (
	redacted      = "[secret]"
	maxSecretFile = 4096
)

// Secret names a user and a password without holding the password: it is read each
// time a connection is opened, so a changed file or a new version is used at once.
// The zero Secret is "none". Every way of printing it gives "[secret]".
type Secret struct {
	user     string // literal or reference
	password string // reference
	dir      string // the only directory file references may name
	late     *late  // set: asked for the credential instead (late.go)
}

// NewSecret makes a secret from a user (plain text or a reference) and a password
// reference: "env:NAME", or "file:PATH" below dir, which must not be accessible to
// others. An empty dir refuses file references. Nothing is read yet.
func NewSecret(user, passwordRef, dir string) (Secret, error) {
	s := Secret{user: user, password: passwordRef, dir: dir}
	if !isRef(passwordRef) {
		return Secret{}, BadConfig("check secret", "password reference: a plain value is not accepted, allowed are sealed, env:NAME and file:PATH")
	}
	for field, ref := range map[string]string{"user": user, "password": passwordRef} {
		if err := checkRef(field, ref, dir); err != nil {
			return Secret{}, err
		}
	}
	return s, nil
}

// checkRef tests a reference without reading it; plain text passes.
func checkRef(field, ref, dir string) error {
	path, file := strings.CutPrefix(ref, "file:")
	switch {
	case ref == "env:" || ref == "file:":
		return BadConfig("check secret", "%s reference %q: names nothing, allowed are env:NAME and file:PATH", field, ref)
	case file && dir == "":
		return BadConfig("check secret", "%s reference %q: no secrets directory is configured", field, ref)
	case file:
		if _, err := within(dir, path); err != nil {
			return BadConfig("check secret", "%s reference %q: must lie in %s", field, ref, dir)
		}
	}
	return nil
}

// IsZero reports whether no secret is configured.
func (s Secret) IsZero() bool { return s == Secret{} }

// Resolve reads the credential now. It does local I/O only. Errors are BadConfig and
// name the reference, never a value.
func (s Secret) Resolve() (Credential, error) {
	if s.IsZero() {
		return Credential{}, BadConfig("resolve secret", "no secret is configured")
	}
	user, password := s.user, ""
	var err error
	if s.late != nil {
		user, password, err = s.late.resolve(s.user)
	} else {
		password, err = s.read(s.password)
	}
	if err == nil && user == s.user && isRef(user) {
		user, err = s.read(user)
	}
	if err != nil {
		return Credential{}, err
	}
	return Credential{user: user, password: password}, nil
}

func (s Secret) read(ref string) (string, error) {
	const op = "resolve secret"
	if name, ok := strings.CutPrefix(ref, "env:"); ok {
		v := os.Getenv(name)
		if v == "" {
			return "", BadConfig(op, "%s: the variable is unset or empty", ref)
		}
		return v, nil
	}
	rel, err := within(s.dir, strings.TrimPrefix(ref, "file:"))
	if err != nil {
		return "", BadConfig(op, "%s: must lie in %s", ref, s.dir)
	}
	// os.Root also refuses symbolic links that lead out of the directory.
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return "", BadConfig(op, "%s: %v", ref, err)
	}
	defer root.Close()
	st, err := root.Stat(rel)
	if err == nil && !st.Mode().IsRegular() {
		return "", BadConfig(op, "%s: not a regular file", ref) // asked before opening: a FIFO would block
	}
	if err != nil {
		return "", BadConfig(op, "%s: %v", ref, err)
	}
	f, err := root.Open(rel)
	if err != nil {
		return "", BadConfig(op, "%s: %v", ref, err)
	}
	defer f.Close()
	if st, err = f.Stat(); err != nil || st.Mode().Perm()&0o007 != 0 {
		return "", BadConfig(op, "%s: mode %v lets others in, allowed are modes like 0600 and 0640", ref, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", BadConfig(op, "%s: %v", ref, err)
	}
	v := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if v == "" || len(b) > maxSecretFile {
		return "", BadConfig(op, "%s: %d bytes, allowed are 1 to %d", ref, len(v), maxSecretFile)
	}
	return v, nil
}

func isRef(s string) bool { return strings.HasPrefix(s, "env:") || strings.HasPrefix(s, "file:") }

func within(dir, path string) (string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	rel, err := filepath.Rel(dir, path)
	if err == nil && !filepath.IsLocal(rel) {
		err = fmt.Errorf("%s is outside %s", path, dir)
	}
	return rel, err
}

// Credential is a resolved secret. Keep it no longer than the call that needs it.
type Credential struct{ user, password string }

// User is the account name.
func (c Credential) User() string { return c.user }

// Password is the value itself: for the wire only.
func (c Credential) Password() string { return c.password }

// versionKey makes Version useless outside this process.
var versionKey = func() (k [32]byte) { _, _ = rand.Read(k[:]); return }()

// Version is equal for equal credentials within this process and tells nothing about
// them. Lock-out protection counts per version.
func (c Credential) Version() string {
	h := hmac.New(sha256.New, versionKey[:])
	fmt.Fprintf(h, "%d:%s%s", len(c.user), c.user, c.password)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func (c Credential) redact(text string) string {
	if c.password == "" {
		return text
	}
	return strings.ReplaceAll(text, c.password, redacted)
}

// Format, String, MarshalText and LogValue redact, whatever the verb or encoder.
func (Secret) Format(f fmt.State, _ rune)     { io.WriteString(f, redacted) }
func (Secret) String() string                 { return redacted }
func (Secret) GoString() string               { return redacted }
func (Secret) MarshalText() ([]byte, error)   { return []byte(redacted), nil }
func (Secret) MarshalJSON() ([]byte, error)   { return []byte(`"` + redacted + `"`), nil }
func (Secret) LogValue() slog.Value           { return slog.StringValue(redacted) }
func (Credential) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// String and the methods below redact like Secret's.
func (Credential) String() string               { return redacted }
func (Credential) GoString() string             { return redacted }
func (Credential) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Credential) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (Credential) LogValue() slog.Value         { return slog.StringValue(redacted) }
