// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// drainWaiting runs `worker drain w-1 --wait` and calls on with each line of progress.
func drainWaiting(t *testing.T, f *apitest.Fleet, on func(line string)) (progress []string, stdout string, code int) {
	t.Helper()
	s := httptest.NewServer(api.NewHandler(f, api.HandlerOptions{}))
	defer s.Close()
	var out bytes.Buffer
	errOut := &lines{fn: func(line string) {
		if strings.HasPrefix(line, "worker w-1: ") || strings.HasPrefix(line, "Error: ") {
			progress = append(progress, line)
			on(line)
		}
	}}
	code = run(t.Context(), &env{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: errOut, Now: cliNow,
		Getenv: func(k string) string { return map[string]string{"HOLDFAST_ENDPOINT": s.URL}[k] },
		IsTTY:  func(any) bool { return false },
	}, []string{"worker", "drain", "w-1", "--yes", "--wait", "--timeout", "20s"})
	return progress, out.String(), code
}

// TestDrainWaitTellsWhatIsLeft proves that --wait ends when the worker owns nothing and holds
// no links, and
// tells each change on the way.
func TestDrainWaitTellsWhatIsLeft(t *testing.T) {
	f := apitest.NewFleet()
	left, links := []int{512, 200, 0, 0}, []int{2, 2, 2, 0}
	f.ChangeWorker("w-1", func(w *v1.Worker) { w.Links = &links[0] })
	progress, stdout, code := drainWaiting(t, f, func(string) {
		left, links = left[1:], links[1:]
		f.ChangeWorker("w-1", func(w *v1.Worker) {
			w.Slots, w.Hosts, w.Links = left[0], min(w.Hosts, left[0]), &links[0]
			if w.Slots == 0 {
				w.State = "drained"
			}
		})
	})
	want := []string{"worker w-1: 512 slots with 2 hosts, 2 links left", "worker w-1: 200 slots with 2 hosts, 2 links left", "worker w-1: nothing, 2 links left"}
	if d := cmp.Diff(want, progress); d != "" || code != exitOK || stdout != "worker w-1: drained, owns nothing\n" {
		t.Errorf("exit code %d, stdout %q, progress (-want +got):\n%s", code, stdout, d)
	}
}

// TestDrainWaitEndsWithTheDrain proves that a wait does not outlive a drain that
// somebody took back.
func TestDrainWaitEndsWithTheDrain(t *testing.T) {
	f := apitest.NewFleet()
	progress, _, code := drainWaiting(t, f, func(string) {
		f.ChangeWorker("w-1", func(w *v1.Worker) { w.State, w.Drain = "ready", nil })
	})
	if code != exitConflict || !slices.Contains(progress, "Error: drain w-1: it was undrained meanwhile") {
		t.Errorf("exit code %d after %q", code, progress)
	}
}
