// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func key(b byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, keySize))
}

func ring(t *testing.T, lines ...string) *Ring {
	t.Helper()
	r, err := ParseRing([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestSealAndOpen: what the first key sealed opens at its place with any ring that has the
// key; no two texts are alike.
func TestSealAndOpen(t *testing.T) {
	old := ring(t, "k1 "+key(1))
	text, err := old.Seal("/holdfast/v1/secrets/h1/bmc", []byte("pw"))
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := old.Seal("/holdfast/v1/secrets/h1/bmc", []byte("pw")); again == text {
		t.Error("the same text twice: a nonce was used again")
	}
	for name, r := range map[string]*Ring{"its own ring": old, "a ring with a newer key": ring(t, "# comment", "k2 "+key(2), "", "  k1\t"+key(1))} {
		got, err := r.Open("/holdfast/v1/secrets/h1/bmc", text)
		if err != nil || string(got) != "pw" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if p, err := Parse(text); err != nil || p.Key != "k1" || p.String() != text {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestDoesNotOpen: a text copied to another host's key, sealed under another key, damaged
// in any byte, or met without its key, is an error that can be told apart.
func TestDoesNotOpen(t *testing.T) {
	const place = "/holdfast/v1/secrets/h1/bmc"
	r := ring(t, "k1 "+key(1))
	text, err := r.Seal(place, []byte("canary-of-plaintext"))
	if err != nil {
		t.Fatal(err)
	}
	var none *Ring
	for name, c := range map[string]struct {
		ring        *Ring
		place, text string
		want        error
	}{
		"another host's key": {r, "/holdfast/v1/secrets/h2/bmc", text, ErrNotOpened},
		"another device":     {r, "/holdfast/v1/secrets/h1/pdu", text, ErrNotOpened},
		"other key, same id": {ring(t, "k1 "+key(9)), place, text, ErrNotOpened},
		"key is not there":   {ring(t, "k2 "+key(1)), place, text, ErrUnknownKey},
		"no ring":            {none, place, text, ErrUnknownKey},
		"renamed key":        {ring(t, "k1 "+key(1), "k2 "+key(2)), place, strings.Replace(text, ":k1:", ":k2:", 1), ErrNotOpened},
	} {
		if got, err := c.ring.Open(c.place, c.text); !errors.Is(err, c.want) || got != nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	p, _ := Parse(text)
	for i := range p.data {
		d := slices.Clone(p.data)
		d[i] ^= 1
		if _, err := r.Open(place, Text{"k1", d}.String()); !errors.Is(err, ErrNotOpened) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	if _, err := none.Seal(place, nil); err == nil {
		t.Error("sealed without a key")
	}
	if _, err := r.Seal(place, make([]byte, maxText)); err == nil {
		t.Error("sealed what could not be parsed")
	}
}

// TestBadInput: each is refused with a word that repeats nothing of it.
func TestBadInput(t *testing.T) {
	for _, s := range []string{"", "pw", prefix, prefix + "k1", prefix + "k1:", prefix + ":AAAA", prefix + "k 1:" + key(1), prefix + "k1:!!", prefix + "k1:" + key(1)[:8],
		prefix + "k1:" + key(1)[:20] + "\n" + key(1)[20:], prefix + "k1:" + strings.Repeat("A", maxText), strings.ToUpper(prefix) + "k1:" + key(1)} {
		if p, err := Parse(s); err == nil {
			t.Errorf("%.60q gave %v", s, p)
		}
	}
	many := ""
	for i := range maxKeys + 1 {
		many += fmt.Sprintf("k%d %s\n", i, key(1))
	}
	for name, c := range map[string][2]string{
		"empty": {"# nothing\n\n", "0 keys"}, "no key": {"k1", "line 1"}, "short": {"#\nk1 c2hvcnQtc2VjcmV0", "line 2"}, "twice": {"k1 " + key(1) + "\nk1 " + key(2), "twice"},
		"no base64": {"k1 canary!", "base64"}, "bad id": {"-k " + key(1), "line 1"}, "too many": {many, "65 keys"}, "three words": {"k1 " + key(1) + " x", "line 1"},
	} {
		_, err := ParseRing([]byte(c[0]))
		if err == nil || !strings.Contains(err.Error(), c[1]) || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "c2hv") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRingPrintsNoKey whatever the verb or encoder.
func TestRingPrintsNoKey(t *testing.T) {
	r := ring(t, "k1 "+key('K'), "k2 "+key('L'))
	j, err := json.Marshal(map[string]any{"ring": r})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %d %x", r, r, r, r, r, r) + string(j) + r.LogValue().String()
	if strings.Contains(all, "KKK") || strings.Contains(all, key('K')) || !strings.Contains(all, "k1, k2") {
		t.Error(all)
	}
}

// TestFileIsReadAgain: a new ring is used once it is whole; one that cannot be used, or is
// gone, changes nothing and says why.
func TestFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring")
	f := NewFile(path)
	if f.Refresh() || f.Ring() != nil || !errors.Is(f.Err(), fs.ErrNotExist) {
		t.Errorf("no file: %v, %v", f.Ring(), f.Err())
	}
	write := func(text string, mode fs.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write("k1 "+key(1), 0o600)
	if !f.Refresh() || f.Refresh() || f.Ring().Newest() != "k1" || f.Err() != nil {
		t.Errorf("first: %v, %v", f.Ring(), f.Err())
	}
	for name, bad := range map[string]func(){
		"damaged":        func() { write("k1 "+key(1)+"x", 0o600) },
		"empty":          func() { write("", 0o600) },
		"open to others": func() { write("k2 "+key(2), 0o604) },
		"too large":      func() { write("k2 "+key(2)+strings.Repeat("\n", maxFile), 0o600) },
		"gone":           func() { _ = os.Remove(path) },
		"a directory":    func() { _ = os.Remove(path); _ = os.Mkdir(path, 0o700) },
	} {
		_ = os.Remove(path)
		bad()
		if f.Refresh() || f.Ring().Newest() != "k1" || f.Err() == nil || !strings.Contains(f.Err().Error(), path) {
			t.Errorf("%s: %v, %v", name, f.Ring(), f.Err())
		}
	}
	_ = os.Remove(path)
	write("k2 "+key(2)+"\nk1 "+key(1), 0o640)
	if !f.Refresh() || f.Ring().Newest() != "k2" || f.Err() != nil {
		t.Errorf("second: %v, %v", f.Ring(), f.Err())
	}
	if none := NewFile(""); none.Refresh() || none.Ring() != nil || none.Err() != nil {
		t.Error("no path is an error")
	}
}

// TestAddKey: a new key opens only until it is first; nothing else in the file changes.
func TestAddKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring")
	now := time.Date(2026, 11, 21, 14, 28, 0, 0, time.UTC)
	add := func(id string, first bool, want ...string) {
		t.Helper()
		got, err := AddKey(path, id, first, now)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	}
	add("", false, "k20261121-142800")
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	b, _ := os.ReadFile(path)
	if err := errors.Join(os.WriteFile(path, append(bytes.TrimSpace(b), "\n# mine"...), 0o600), os.Chmod(path, 0o640)); err != nil {
		t.Fatal(err)
	}
	add("last", false, "k20261121-142800", "last")
	add("first", true, "first", "k20261121-142800", "last")
	b, _ = os.ReadFile(path)
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o640 || !strings.HasPrefix(string(b), header) || !strings.Contains(string(b), "\n# mine\n") {
		t.Errorf("%v:\n%s", st.Mode(), b)
	}
	if _, err := AddKey(path, "last", false, now); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an id that is used: %v", err)
	}
	if _, err := AddKey(path, "no good", false, now); err == nil {
		t.Error("a bad id")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	f := NewFile(path)
	if f.Refresh(); f.Ring().Newest() != "first" {
		t.Errorf("%v, %v", f.Ring(), f.Err())
	}
}

// FuzzParse: whatever is accepted is spelt exactly like that, has a usable key id, and
// never opens by itself.
func FuzzParse(f *testing.F) {
	r, err := ParseRing([]byte("k1 " + key(1)))
	if err != nil {
		f.Fatal(err)
	}
	text, err := r.Seal("place", []byte("pw"))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"", prefix, text, text + "\n", strings.TrimRight(text, "="), prefix + "k1:" + key(0) + key(0)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			return
		}
		if p.String() != s || !keyID.MatchString(p.Key) || len(p.data) < nonce+tag {
			t.Errorf("%q gave %+v", s, p)
		}
		if plain, err := r.Open("elsewhere", s); err == nil {
			t.Errorf("%q opened as %q", s, plain)
		}
	})
}

// FuzzParseRing never panics and never takes a ring without keys.
func FuzzParseRing(f *testing.F) {
	f.Add([]byte("# c\nk1 " + key(1) + "\n"))
	f.Add([]byte("k1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRing(b); err == nil && (r.Newest() == "" || len(r.IDs()) > maxKeys) {
			t.Errorf("%v", r)
		}
	})
}
