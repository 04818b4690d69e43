// SPDX-License-Identifier: Apache-2.0

package fenceagent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// FuzzMetadata: no text panics the reader, and what it accepts is within its bounds.
func FuzzMetadata(f *testing.F) {
	b, err := os.ReadFile(filepath.Join("testdata", "metadata.xml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`<resource-agent><parameters><parameter name="a" obsoletes="b"/><parameter name="b" obsoletes="a"/></parameters><actions><action name="off"/></actions></resource-agent>`))
	f.Add([]byte(`<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><resource-agent>&b;</resource-agent>`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseMetadata(text)
		if err != nil {
			return
		}
		if len(m.params) > maxParameters || len(m.actions) == 0 || len(m.actions) > maxActions {
			t.Errorf("%d parameters, %d actions", len(m.params), len(m.actions))
		}
		for name := range m.params {
			if !wordForm.MatchString(name) || strings.ContainsAny(name, "=\n") {
				t.Errorf("parameter %q", name)
			}
			if now := m.canonical(name); m.canonical(now) != now {
				t.Errorf("%q leads in circles", name)
			}
		}
	})
}

// FuzzStatus: OFF is read from exactly one pair of exit code and words.
func FuzzStatus(f *testing.F) {
	f.Add(0, []byte("Status: ON\n"), []byte(""))
	f.Add(2, []byte("Status: OFF\n"), []byte("DeprecationWarning"))
	f.Add(1, []byte(""), []byte("2026-01-01 ERROR: Unable to connect/login to fencing device"))
	f.Fuzz(func(t *testing.T, exit int, stdout, stderr []byte) {
		res := proc.Result{Exit: exit, Stdout: stdout, Stderr: stderr}
		state, ok := parseStatus(res)
		words := strings.EqualFold(strings.TrimSpace(string(stdout)), "status: off")
		if state == corepower.Off && (exit != 2 || !words) || ok != (state != corepower.Unknown) {
			t.Errorf("%v, %v from exit %d and %q", state, ok, exit, stdout)
		}
		c := &conn{config: config{agent: "fence_fake"}}
		if e := c.classify("test", res, time.Second, true); e.Kind == corepower.NoError || strings.ContainsAny(e.Error(), "\n\x00") || len(e.Error()) > 1000 {
			t.Errorf("error %q", e)
		}
		alreadyThere(stdout)
	})
}

// FuzzList: no list panics the reader or names an outlet twice.
func FuzzList(f *testing.F) {
	f.Add([]byte("1,left\n2,right\n"), ",")
	f.Add([]byte("1,left\n1,right\n"), ",")
	f.Fuzz(func(t *testing.T, text []byte, separator string) {
		if got, err := parseList(text, separator); err == nil && len(got) > maxListed {
			t.Errorf("%d outlets", len(got))
		}
	})
}
