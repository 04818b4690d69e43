// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

func ep(cluster string, generation, revision int64) *agentpb.Epoch {
	return &agentpb.Epoch{Cluster: cluster, Generation: generation, Revision: revision}
}

// leases.md §2.10: agents remember the highest epoch with the etcd cluster id, over
// restarts, and refuse older ones.
func TestOlderEpochsAreRefusedAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	for i, step := range []struct {
		epoch *agentpb.Epoch
		ok    bool
	}{
		{ep("c1", 1, 10), true},
		{ep("c1", 1, 10), true},
		{ep("c1", 1, 9), false},
		{ep("c1", 2, 3), true}, // a higher generation beats any revision
		{ep("c1", 1, 99), false},
		{ep("c2", 1, 99), false}, // another cluster's revisions say nothing:
		{ep("c2", 2, 99), false}, // only a higher generation comes after
		{ep("c2", 3, 1), true},
		{ep("c1", 2, 4), false}, // the old etcd, still alive somewhere
		{ep("c2", 3, 0), false},
		{ep("c1", 4, 4), true},
		{ep("", 9, 9), false},
		{ep("c1", -1, 9), false},
		{nil, false},
	} {
		m, err := loadEpochs(dir) // a new process each time
		if err != nil {
			t.Fatal(err)
		}
		if err := m.admit(step.epoch); (err == nil) != step.ok {
			t.Errorf("step %d: admit(%v) = %v, want ok %v", i, step.epoch, err, step.ok)
		}
	}
	m, err := loadEpochs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if h := m.highest(); h.Cluster != "c1" || h.Generation != 4 || h.Revision != 4 {
		t.Errorf("highest = %v, want 4/4 of c1", h)
	}
	var stale *staleError
	if err := m.admit(ep("c1", 4, 3)); !errors.As(err, &stale) {
		t.Errorf("older epoch = %v, want a staleError", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDamagedEpochMemoryStopsTheAgent(t *testing.T) {
	for _, content := range []string{"", "{", `{"v":1,"highest":[{"cluster":1}]}`, `{"v":2}`, `{"v":1,"x":1}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, epochFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(Options{Host: "h1", Workers: []string{"127.0.0.1:1"}, StateDir: dir, Hypervisor: &fakeHost{}, InsecureLoopback: true})
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, epochFile)) {
			t.Errorf("memory %q: New() = %v, want an error that names the file", content, err)
		}
	}
}

// A full disk must not cut the host off, and the memory holds while the process lives.
func TestEpochThatCannotBeKeptIsStillRemembered(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	a := newAgent(t, func(o *Options) { o.StateDir = dir })
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := a.epochs.admit(ep("c1", 1, 10)); !errors.Is(err, errUnkept) {
		t.Errorf("admit without a disk = %v, want errUnkept", err)
	}
	if err := a.admit(ep("c1", 1, 9)); err == nil {
		t.Error("an older epoch was admitted")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := a.epochs.admit(ep("c1", 1, 10)); err != nil {
		t.Errorf("admit with a disk again = %v", err)
	}
	if m, err := loadEpochs(dir); err != nil || m.highest().GetRevision() != 10 {
		t.Errorf("kept %v, %v, want revision 10", m.highest(), err)
	}
}

// agents.md: the agent persists hosts=m1,m2,m3@… atomically; other keys are kept.
func TestWorkerListIsKept(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, propertiesFile)
	if err := os.WriteFile(file, []byte("# by hand\nhost.lb.check.interval=60\n\nhosts = 127.0.0.1:1,127.0.0.2:2@ring\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	configured := []string{"127.0.0.9:9", "127.0.0.2:2"}
	l, err := loadWorkers(dir, configured)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := l.addresses(), []string{"127.0.0.1:1", "127.0.0.2:2", "127.0.0.9:9"}; !slices.Equal(got, want) {
		t.Errorf("addresses = %v, want %v", got, want)
	}
	if err := l.update(list("roundrobin", 90*time.Second, "127.0.0.3:3", "[::1]:4")); err != nil {
		t.Fatal(err)
	}
	if err := l.update(nil); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if want := "# by hand\nhost.lb.check.interval=90\n\nhosts=127.0.0.3:3,[::1]:4@roundrobin\n"; err != nil || string(content) != want {
		t.Errorf("file = %q, %v, want %q", content, err, want)
	}
	if err := l.update(list("ring", 0, "127.0.0.3:3\nevil=1")); err == nil {
		t.Error("an address with a line break was taken")
	}
	if err := l.update(list("x\ny=1", 0, "127.0.0.3:3")); err == nil {
		t.Error("an algorithm with a line break was taken")
	}
	sum := l.wire().GetHash()
	if l, err = loadWorkers(dir, configured); err != nil || l.addresses()[0] != "127.0.0.3:3" || l.wire().GetHash() != sum {
		t.Errorf("read again = %v, %v", l.addresses(), err)
	}
}

func TestBadPropertiesNameTheirLine(t *testing.T) {
	for content, want := range map[string]string{
		"a=1\nno value\n":                       `agent.properties:2: "no value" is not key=value`,
		"=1\n":                                  "agent.properties:1:",
		"two words=1\n":                         "agent.properties:1:",
		"a=1\n\na=2\n":                          `agent.properties:3: key "a" is on line 1 already`,
		"a=\x00\n":                              "agent.properties:1: line has a control character",
		"#\nhosts=127.0.0.1@x\n":                `agent.properties:2: hosts: address "127.0.0.1": want host:port`,
		"hosts=127.0.0.1:70000@x":               `agent.properties:1: hosts: address "127.0.0.1:70000": port "70000"`,
		"hosts=a:1@X\n":                         `agent.properties:1: hosts: algorithm "X"`,
		"hosts=a:1\nhost.lb.check.interval=x\n": `agent.properties:1: host.lb.check.interval: "x": want seconds`,
		"hosts=127.0.0.1:1,,b:2@x":              `agent.properties:1: hosts: address ""`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, propertiesFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadWorkers(dir, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
}

// Whatever is read is written back the same, and a key that is set is read back.
func FuzzProperties(f *testing.F) {
	f.Add("hosts=a:1,b:2@owner\nhost.lb.check.interval=60\n", "hosts", "c:3@owner")
	f.Add("# x\r\n\n!y\n a = b = c \n", "k", "")
	f.Fuzz(func(t *testing.T, content, key, value string) {
		p, err := parseProperties("f", []byte(content))
		if err != nil {
			return
		}
		again, err := parseProperties("f", p.bytes())
		if err != nil || string(again.bytes()) != string(p.bytes()) {
			t.Fatalf("%q was written as %q, read as %q, %v", content, p.bytes(), again.bytes(), err)
		}
		set, err := parseProperties("f", []byte(key+"="+value))
		if err != nil || len(set.at) != 1 || set.lines[0] == "" {
			return
		}
		for k := range set.at {
			v, _ := set.get(k)
			p.set(k, v)
			if again, err = parseProperties("f", p.bytes()); err != nil {
				t.Fatalf("after set(%q, %q): %v", k, v, err)
			}
			if got, found := again.get(k); !found || got != v {
				t.Fatalf("after set(%q, %q): get = %q, %v", k, v, got, found)
			}
		}
	})
}
