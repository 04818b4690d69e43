// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHook: no shell, input on stdin, output bounded, a deadline for the whole group.
func TestHook(t *testing.T) {
	out, err := runHook(t.Context(), script(t, "cat"), nil, []byte(`{"a":1}`), 5*time.Second)
	if err != nil || string(out) != `{"a":1}` {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := runHook(t.Context(), script(t, "echo broken >&2; exit 3"), nil, nil, 5*time.Second); err == nil || !strings.Contains(err.Error(), "exit status 3: broken") {
		t.Errorf("got %v, want the status and what it said", err)
	}
	if _, err := runHook(t.Context(), "relative", nil, nil, time.Second); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("got %v for a relative path", err)
	}
	began := time.Now()
	if _, err := runHook(t.Context(), script(t, "sleep 60 & sleep 60"), nil, nil, 200*time.Millisecond); err == nil || !strings.Contains(err.Error(), "not done within") {
		t.Errorf("got %v for a hook that hangs", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a hook that hangs held its caller for %v", took)
	}
	out, err = runHook(t.Context(), script(t, "head -c 200000 /dev/zero"), nil, nil, 5*time.Second)
	if err != nil || len(out) != maxHookOutput {
		t.Errorf("%d bytes kept, %v; want %d", len(out), err, maxHookOutput)
	}
}
