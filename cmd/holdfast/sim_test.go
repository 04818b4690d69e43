// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/sim/metal"
)

func simEnv(out, errs io.Writer) *env {
	return &env{
		Stdin: strings.NewReader(""), Stdout: out, Stderr: errs, Getenv: func(string) string { return "" }, IsTTY: func(any) bool { return false }, Now: time.Now,
	}
}

// sim runs the tool and returns what it printed and its exit code.
func sim(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), simEnv(&o, &e), append([]string{"sim"}, args...))
	return o.String(), e.String(), code
}

// startSim runs `holdfast sim bmc` until the test ends and returns its port and inventory.
func startSim(t *testing.T, args ...string) (port string, items []metal.Item) {
	t.Helper()
	c, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	port = fmt.Sprint(min(c.LocalAddr().(*net.UDPAddr).Port, 65000))
	_ = c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	done := make(chan int, 1)
	var errs bytes.Buffer
	go func() {
		done <- run(ctx, simEnv(in, &errs), append([]string{"sim", "bmc", "--port", port}, args...))
		_ = in.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-done; code != exitOK {
			t.Errorf("exit %d: %s", code, errs.String())
		}
	})
	first := make([]byte, 1<<16) // the inventory comes in one piece
	n, err := out.Read(first)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the tool
	for dec := json.NewDecoder(bytes.NewReader(first[:n])); dec.More(); {
		var i metal.Item
		if err := dec.Decode(&i); err != nil {
			t.Fatal(err)
		}
		items = append(items, i)
	}
	return port, items
}

// TestSim: the devices come up with an inventory, take orders from another terminal, and
// end with the signal.
func TestSim(t *testing.T) {
	truth := filepath.Join(t.TempDir(), "truth")
	port, items := startSim(t, "--listen", "127.31.0.0/24", "--count", "30", "--redfish", "1", "--pdu", "2", "--faults", "dead", "--truth", truth, "--seed", "3")
	kinds := map[string]int{}
	for _, i := range items {
		kinds[i.Kind]++
	}
	if kinds["ipmi"] != 30 || kinds["redfish"] != 1 || kinds["pdu"] != 2 || items[0].Address != "127.31.0.1" {
		t.Errorf("inventory: %v, %+v", kinds, items[0])
	}
	status := func(hosts string) (out []metal.Status) {
		t.Helper()
		var text, errs string
		deadline := time.Now().Add(5 * time.Second)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			var code int
			if text, errs, code = sim(t, "status", "--port", port, "--hosts", hosts); code == exitOK {
				break
			}
			if time.Now().After(deadline) { // the socket for orders comes with the inventory, not before it
				t.Fatalf("exit %d: %s", code, errs)
			}
			<-tick.C
		}
		for dec := json.NewDecoder(strings.NewReader(text)); dec.More(); {
			var s metal.Status
			if err := dec.Decode(&s); err != nil {
				t.Fatal(err)
			}
			out = append(out, s)
		}
		return out
	}
	dead := 0
	for _, s := range status("1-30") {
		if s.Faults.Mute {
			dead++
		}
	}
	if dead != 1 { // at least one, however few there are
		t.Errorf("%d of 30 are dead", dead)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"set", `{"hosts": "7", "bmc": {"say_off": true}}`, "--port", port}, exitOK, ""},
		{[]string{"power", "off", "--hosts", "8-9", "--port", port}, exitOK, "2 hosts switched off"},
		{[]string{"power", "of", "--hosts", "8-9", "--port", port}, exitUsage, "on, off"},
		{[]string{"set", `{"hosts": "31", "bmc": {}}`, "--port", port}, exitUsage, "from 1 to 30"},
		{[]string{"set", `{"bmc": {"mutte": true}}`, "--port", port}, exitUsage, "mutte"},
		{[]string{"set", "healthyy", "--port", port}, exitUsage, "presets healthy, usual"},
		{[]string{"status", "--port", "1"}, exitNotFound, "holdfast sim bmc --port 1"},
		{[]string{"inventory", "--port", port}, exitOK, `"kind":"redfish"`},
		{[]string{"bmc", "--port", port}, exitFailed, "take another with --port"},
		{[]string{"bmc", "--listen", "10.0.0.0/8"}, exitUsage, "127.0.0.0/8"},
		{[]string{"bmc", "--listen", "here"}, exitUsage, `"here"`},
		{[]string{"bmc", "--count", "0"}, exitUsage, "hosts is 0"},
		{[]string{"bmc", "--pdu", "3"}, exitUsage, "even"},
		{[]string{"bmc", "--user", "viewer"}, exitUsage, "viewer"},
		{[]string{"bmc", "--password-file", "/nowhere"}, exitUsage, "password-file"},
	} {
		out, errs, code := sim(t, c.args...)
		if code != c.code || !strings.Contains(out+errs, c.says) {
			t.Errorf("%q: exit %d, %s%s; want %d, %q", c.args, code, out, errs, c.code, c.says)
		}
	}
	if s := status("7-9"); !s[0].Faults.SayOff || !s[0].On || s[1].On || s[2].On {
		t.Errorf("status after the orders: %+v", s)
	}
	if _, errs, code := sim(t, "set", "healthy", "--port", port); code != exitOK {
		t.Error(errs)
	}
	if s := status("7"); s[0].Faults != nil {
		t.Errorf("after healing: %+v", s[0].Faults)
	}
	if b, err := os.ReadFile(truth); err != nil || len(b) != 0 {
		t.Errorf("what was done by hand is in the truth log: %s, %v", b, err)
	}
}
