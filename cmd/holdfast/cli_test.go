// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// cliNow is five minutes into the life of the fleet of apitest.
func cliNow() time.Time { return apitest.Start.Add(5 * time.Minute) }

// script is what one script works on.
type script struct {
	fleet  *apitest.Fleet
	server *httptest.Server
	drop   atomic.Bool // the answer of the next POST
}

// TestCLI runs the scripts: the tool in-process against the real server over a fleet in
// memory. Commands: holdfast; exits CODE (holdfast with this exit code); typed TEXT
// (holdfast on a terminal where TEXT is typed); piped FILE (holdfast with this standard
// input); calls (what was written to the API); owner HOST URL|none; drops (the answer of the
// next POST is lost);
// expand IN OUT (puts the API's address into a file); secure (trust_test.go).
func TestCLI(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/cli",
		Setup: func(env *testscript.Env) error {
			s := &script{fleet: apitest.NewFleet()}
			s.fleet.Exports = exportedIncidents(t)
			s.server = httptest.NewServer(s.dropping(api.NewHandler(s.fleet, api.HandlerOptions{Version: "1.2", Hooks: apitest.NewHooks(), Support: apitest.Support{}, Repeats: &apitest.Repeats{}})))
			env.Defer(s.server.Close)
			env.Values["script"] = s
			env.Setenv("HOLDFAST_ENDPOINT", s.server.URL)
			env.Setenv("ENDPOINT", s.server.URL)
			env.Setenv("HOLDFAST_ACTOR", "ann")
			env.Setenv("HOME", env.WorkDir+"/home")
			env.Setenv("PID", strconv.Itoa(os.Getpid()))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"holdfast": func(ts *testscript.TestScript, neg bool, args []string) {
				if code := runIn(ts, "", false, args); (code != exitOK) != neg {
					ts.Fatalf("exit code %d", code)
				}
			},
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				if code := runIn(ts, "", false, args[2:]); strconv.Itoa(code) != args[0] || args[1] != "holdfast" {
					ts.Fatalf("exit code %d, want %s", code, args[0])
				}
			},
			"typed": func(ts *testscript.TestScript, neg bool, args []string) {
				if code := runIn(ts, args[0]+"\n", true, args[2:]); (code != exitOK) != neg || args[1] != "holdfast" {
					ts.Fatalf("exit code %d", code)
				}
			},
			"piped": func(ts *testscript.TestScript, neg bool, args []string) {
				if code := runIn(ts, ts.ReadFile(args[0]), false, args[2:]); (code != exitOK) != neg || args[1] != "holdfast" {
					ts.Fatalf("exit code %d", code)
				}
			},
			"calls": func(ts *testscript.TestScript, _ bool, _ []string) {
				out := ts.Stdout()
				for _, c := range ts.Value("script").(*script).fleet.Noted() {
					_, err := fmt.Fprintln(out, c)
					ts.Check(err)
				}
			},
			"expand": func(ts *testscript.TestScript, _ bool, args []string) {
				text := strings.ReplaceAll(ts.ReadFile(args[0]), "ENDPOINT", ts.Getenv("ENDPOINT"))
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
			},
			"drops":  func(ts *testscript.TestScript, _ bool, _ []string) { ts.Value("script").(*script).drop.Store(true) },
			"secure": func(ts *testscript.TestScript, _ bool, _ []string) { secureFleet(t, ts) },
			"owner": func(ts *testscript.TestScript, _ bool, args []string) {
				f := ts.Value("script").(*script).fleet
				f.Mu.Lock()
				defer f.Mu.Unlock()
				f.Elsewhere[args[0]] = strings.TrimPrefix(args[1], "none")
			},
		},
		UpdateScripts: os.Getenv("UPDATE") != "",
	})
}

// dropping carries out what it is asked for, and loses an answer where the script says so.
func (s *script) dropping(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && s.drop.CompareAndSwap(true, false) {
			h.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

// runIn runs the tool inside a script.
func runIn(ts *testscript.TestScript, stdin string, tty bool, args []string) int {
	for i := range args {
		if name, ok := strings.CutPrefix(args[i], "@"); ok { // a file of the script
			args[i] = ts.MkAbs(name)
		}
	}
	return run(context.Background(), &env{
		Stdin: strings.NewReader(stdin), Stdout: ts.Stdout(), Stderr: ts.Stderr(), Getenv: ts.Getenv, Now: cliNow,
		IsTTY: func(stream any) bool { _, in := stream.(io.Reader); return tty && in },
	}, args)
}

// lines is a Writer that tells each whole line.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
	fn  func(line string)
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(b)
	for {
		line, err := l.buf.ReadString('\n')
		if err != nil {
			l.buf.WriteString(line)
			return len(b), nil
		}
		l.fn(strings.TrimSuffix(line, "\n"))
	}
}

// watching runs a command that goes on until the n-th line of output, and gives the
// lines and the exit code.
func watching(t *testing.T, f *apitest.Fleet, n int, on func(line string), args ...string) ([]string, int) {
	t.Helper()
	s := httptest.NewServer(api.NewHandler(f, api.HandlerOptions{}))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	out := &lines{fn: func(line string) {
		got = append(got, line)
		on(line)
		if len(got) == n {
			cancel()
		}
	}}
	var errOut bytes.Buffer
	code := run(ctx, &env{
		Stdin: strings.NewReader(""), Stdout: out, Stderr: &errOut, Now: cliNow,
		Getenv: func(k string) string { return map[string]string{"HOLDFAST_ENDPOINT": s.URL}[k] },
		IsTTY:  func(any) bool { return false },
	}, args)
	if errOut.Len() > 0 {
		t.Errorf("stderr: %s", errOut.String())
	}
	return got, code
}

// TestWatchPrintsChangesAsLines proves that -w shows what is there and then each change
// once, and that an interrupt ends it with 130 and no word.
func TestWatchPrintsChangesAsLines(t *testing.T) {
	f := apitest.NewFleet()
	got, code := watching(t, f, 6, func(line string) {
		switch {
		case strings.HasPrefix(line, "h-3"):
			f.Change("h-1", func(h *v1.Host) { h.Status.State = "SUSPECT" })
		case strings.HasPrefix(line, "h-1 ") && strings.Contains(line, "SUSPECT"):
			f.Mu.Lock()
			delete(f.HostMap, "h-2")
			f.Mu.Unlock()
			f.Emit(v1.Event{}, false)
		}
	}, "get", "hosts", "-p", "z1", "-w")
	if code != exitInterrupted || len(got) < 6 {
		t.Fatalf("exit code %d after %q", code, got)
	}
	if !strings.Contains(got[4], "h-1") || !strings.Contains(got[4], "SUSPECT") || !strings.Contains(got[5], "h-2") || !strings.Contains(got[5], "DELETED") {
		t.Errorf("changes: %q", got[4:])
	}
}

// TestEventsFollow proves that events -w shows the last ones, then new ones, as one
// object per line with -o json.
func TestEventsFollow(t *testing.T) {
	f := apitest.NewFleet()
	got, code := watching(t, f, 3, func(line string) {
		if strings.Contains(line, `"e-3"`) {
			f.Emit(v1.Event{ID: "new", Type: "available", Severity: "info", Host: "h-1", Message: "back"}, false)
		}
	}, "events", "-w", "--last", "2", "-o", "json")
	if code != exitInterrupted || len(got) != 3 {
		t.Fatalf("exit code %d after %q", code, got)
	}
	for i, id := range []string{"e-2", "e-3", "new"} {
		if !strings.HasPrefix(got[i], `{"id":"`+id+`"`) || !strings.HasSuffix(got[i], "}") {
			t.Errorf("line %d: %s", i, got[i])
		}
	}
}

// TestWaitSeesTheChange proves that wait ends once the condition holds.
func TestWaitSeesTheChange(t *testing.T) {
	f := apitest.NewFleet()
	got, code := watching(t, f, -1, func(line string) {
		if strings.HasPrefix(line, "host/h-1 ") { // there from the beginning
			f.Change("h-2", func(h *v1.Host) { h.Status.State = "AVAILABLE" })
		}
	}, "wait", "host/h-1", "host/h-2", "--for", "state=available", "--timeout", "20s")
	if code != exitOK || strings.Join(got, "|") != "host/h-1 state=AVAILABLE|host/h-2 state=AVAILABLE" {
		t.Errorf("exit code %d after %q", code, got)
	}
}

// TestExitCodes proves the codes of libraries.md §5 for each kind of error.
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), 1},
		{usage(errors.New("x")), 2},
		{v1.Problemf(v1.CodeBadRequest, "x"), 2},
		{fmt.Errorf("off h-1: %w", v1.Problemf(v1.CodeNotFound, "x")), 3},
		{v1.Problemf(v1.CodeConflict, "x"), 4},
		{&exitError{errors.New("x"), exitUnhealthy}, 5},
		{&exitError{errors.New("x"), exitTimeout}, 6},
		{v1.Problemf(v1.CodeRefused, "x"), 7},
		{v1.Problemf(v1.CodeForbidden, "x"), 8},
		{v1.Problemf(v1.CodeUnauthenticated, "x"), 8},
		{v1.Problemf(v1.CodePrecondition, "x"), 4},
		{v1.Problemf(v1.CodeUnknownOutcome, "x"), 1},
		{v1.Problemf(v1.CodeUnavailable, "x"), 1},
		{v1.Problemf(v1.CodeInternal, "x"), 1},
		{errors.Join(v1.Problemf(v1.CodeConflict, "x"), errors.New("y")), 4},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}

// TestChangesCanBeTried proves that every verb that changes something knows --dry-run, but
// for those that are harmless or that cannot be foreseen.
func TestChangesCanBeTried(t *testing.T) {
	looks := []string{
		"get", "describe", "explain", "events", "wait", "allocate", "plan", "version", "completion", "help", "list", "show", "status", "whoami", "audit", "links", "link", "current", "budget", "ladder", "get-contexts", "history", "export", "report", "replay", "support",
		"dev", "demo", "sim", "simulate", "context", "pki", "keygen", "child",
		"identify", "test", // they switch nothing
		"power secret set", "power secret delete", // the first is about what the device says
	}
	root := newRoot(&env{Getenv: func(string) string { return "" }, IsTTY: func(any) bool { return false }})
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		path := strings.TrimPrefix(c.CommandPath(), "holdfast ")
		if c.Hidden || slices.Contains(looks, c.Name()) && !c.HasSubCommands() || slices.Contains(looks, path) && path != "ha budget" || strings.HasPrefix(path, "power profile show") {
			return
		}
		for _, s := range c.Commands() {
			check(s)
		}
		if !c.HasSubCommands() && c.Flags().Lookup("dry-run") == nil {
			t.Errorf("%s: no --dry-run", path)
		}
	}
	check(root)
}

// TestHelpIsComplete proves that every command has a summary, a description and
// examples, three of them where it is one of the operators'.
func TestHelpIsComplete(t *testing.T) {
	root := newRoot(&env{Getenv: func(string) string { return "" }, IsTTY: func(any) bool { return false }})
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		for _, s := range c.Commands() {
			check(s)
		}
		if c.Hidden || c.Name() == "help" || strings.HasPrefix(c.CommandPath(), "holdfast dev") || c.Name() == "demo" {
			return
		}
		if c.Short == "" || c.Long == "" || strings.Count(c.Example, "holdfast ") < 3 {
			t.Errorf("%s: short %q, long %q, example:\n%s", c.CommandPath(), c.Short, c.Long, c.Example)
		}
		if strings.HasSuffix(c.Short, ".") || strings.Count(c.Long, ".") < 2 {
			t.Errorf("%s: summary without a full stop and two sentences: %q, %q", c.CommandPath(), c.Short, c.Long)
		}
	}
	check(root)
}
