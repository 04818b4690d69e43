// SPDX-License-Identifier: Apache-2.0

package crosscheck

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/drivertest"
	"github.com/holdfast-ha/holdfast/worker/power/execdriver"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// board is the relay board that the example of docs/power-exec.md speaks to.
type board struct {
	*httptest.Server
	mu       sync.Mutex
	on, mute bool
	commands []corepower.Verb
	done     chan struct{}
}

func newBoard(t *testing.T) *board {
	b := &board{on: true, done: make(chan struct{})}
	b.Server = httptest.NewUnstartedServer(b)
	b.Config.ErrorLog = log.New(io.Discard, "", 0) // programs are killed in the middle
	b.StartTLS()
	t.Cleanup(func() { close(b.done); b.Close() })
	return b
}

// ca writes the board's certificate to a file.
func (b *board) ca(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *board) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // also lets the server see when the program is gone
	if err != nil {
		return
	}
	b.mu.Lock()
	mute := b.mute
	b.mu.Unlock()
	if mute {
		select {
		case <-b.done:
		case <-r.Context().Done():
		}
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	user, pw, _ := r.BasicAuth()
	switch {
	case user != "admin" || pw != password:
		http.Error(w, "no", http.StatusUnauthorized)
	case r.URL.Path == "/about":
		_ = json.NewEncoder(w).Encode(map[string]string{"serial": "B-77"})
	case r.URL.Path != "/relay/4":
		http.Error(w, "no such relay", http.StatusNotFound)
	case r.Method == http.MethodPut:
		var want struct{ On bool }
		if err := json.Unmarshal(body, &want); err != nil {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		b.on = want.On
		b.commands = append(b.commands, map[bool]corepower.Verb{true: corepower.HardOn, false: corepower.HardOff}[want.On])
		_ = json.NewEncoder(w).Encode(map[string]bool{"on": b.on})
	default:
		_ = json.NewEncoder(w).Encode(map[string]bool{"on": b.on})
	}
}

// example is the Python program printed in a page of docs.
func example(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "```python\n")
	program, _, end := strings.Cut(after, "```")
	if !ok || !end {
		t.Fatalf("docs/%s has no example", page)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, path} {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestDocumentedProgram: the example of docs/power-exec.md passes the driver contract.
// As only root's programs are run, it needs root; elsewhere it proves the refusal.
func TestDocumentedProgram(t *testing.T) {
	install(t) // the fence agents bring Python
	program := example(t, "power-exec.md")
	d := execdriver.New(proc.NewRunner(4))
	if os.Getuid() != 0 {
		if err := d.Check(power.Target{Params: map[string]string{"program": program, "secret": "none"}}); power.KindOf(err) != corepower.BadConfig {
			t.Errorf("a program that does not belong to root: %v", err)
		}
		return
	}
	drivertest.Run(t, func(t *testing.T) drivertest.Device {
		b := newBoard(t)
		ca := b.ca(t)
		state := map[bool]corepower.State{true: corepower.On, false: corepower.Off}
		return drivertest.Device{
			Driver: relayDriver{d}, Password: password, Wrong: secretOf(t, "admin", "not-it"), Sessionless: true,
			Target: power.Target{Host: "h-1", Device: "relay", Address: strings.TrimPrefix(b.URL, "https://"), Secret: secretOf(t, "admin", password),
				Params: map[string]string{"program": program, "param.relay": "4", "param.ca": ca}},
			Identity: corepower.Identity{Serial: "B-77/relay/4"},
			Power:    func() corepower.State { b.mu.Lock(); defer b.mu.Unlock(); return state[b.on] },
			SetPower: func(s corepower.State) { b.mu.Lock(); defer b.mu.Unlock(); b.on = s == corepower.On },
			Commands: func() []corepower.Verb { b.mu.Lock(); defer b.mu.Unlock(); return b.commands },
			Mute:     func(on bool) { b.mu.Lock(); defer b.mu.Unlock(); b.mute = on },
		}
	})
}

// relayDriver is the driver with this program, which vouches for its readings.
type relayDriver struct{ power.Driver }

func (d relayDriver) Describe() power.Descriptor {
	is := d.Driver.Describe()
	is.Capabilities.Authentic = true
	return is
}
