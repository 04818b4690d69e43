// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// block is one sh block of a page, with what the comment above it decides of it:
//
//	<!-- starts: dev -->              it starts the fleet that the others run against
//	<!-- run: dev -->                 TestDocsRun runs it
//	<!-- run: dev; h-17 is h006 -->   the same, with other names in place of the page's
//	<!-- run: machine -->             TestSystemd runs it, on a Debian of its own
//	<!-- hardware: a BMC -->          it needs what no test has
//	<!-- not run: why -->             it is not run here, and why that is no gap
type block struct {
	line int    // of its first line in the page
	kind string // starts, run, machine, hardware, not run
	why  string // of the last two
	swap []string
	text string
}

var (
	decision = regexp.MustCompile(`^<!-- (starts|run|hardware|not run): (\S.*) -->$`)
	swapped  = regexp.MustCompile(`^(\S+) is (\S+)$`)
)

// blocks are the sh blocks of a page in their order; an error names one without a decision.
func blocks(text string) (out []block, err error) {
	var above string // the last line that is not empty
	var now *block
	n := 0
	for l := range strings.Lines(text) {
		n++
		switch trimmed := strings.TrimSpace(l); {
		case now != nil && trimmed == "```":
			out, now, above = append(out, *now), nil, ""
		case now != nil:
			now.text += l
		case trimmed == "```sh":
			b, err := decided(above)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			now, b.line = &b, n+1
		case trimmed != "":
			above = trimmed
		}
	}
	if now != nil {
		return nil, fmt.Errorf("line %d: the block does not end", now.line)
	}
	return out, nil
}

// decided reads the comment above a block.
func decided(comment string) (b block, err error) {
	m := decision.FindStringSubmatch(comment)
	if m == nil {
		return b, fmt.Errorf("above the sh block is %q; wanted is <!-- run: dev -->, <!-- starts: dev -->, <!-- hardware: what --> or <!-- not run: why -->", comment)
	}
	parts := strings.Split(m[2], "; ")
	b.kind = m[1]
	if b.kind == "hardware" || b.kind == "not run" {
		b.why = m[2]
		return b, nil
	}
	if m[2] == "machine" && b.kind == "run" {
		b.kind = "machine"
		return b, nil
	}
	if parts[0] != "dev" {
		return b, fmt.Errorf("%q: %q is no fleet; known are dev and, to run, machine", comment, parts[0])
	}
	for _, p := range parts[1:] {
		s := swapped.FindStringSubmatch(p)
		if s == nil {
			return b, fmt.Errorf("%q: %q; wanted is NAME is OTHER", comment, p)
		}
		b.swap = append(b.swap, s[1], s[2])
	}
	return b, nil
}

// What a block must not be.
func TestDocsDecisions(t *testing.T) {
	for _, bad := range []string{"", "Then:", "<!-- run -->", "<!-- run: prod -->", "<!-- run: dev; h-17 -->", "<!-- hardware: -->", "<!-- not run:  -->", "<!-- skip: dev -->", "<!-- starts: machine -->", "<!-- run: machine; a is b -->"} {
		if _, err := blocks(bad + "\n\n```sh\nholdfast get hosts\n```\n"); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
	got, err := blocks("<!-- run: dev; h-17 is h006; w is v -->\n```sh\na\nb\n```\n```yaml\nc\n```\n<!-- hardware: a BMC; a PDU -->\n```sh\nd\n```\n")
	if want := `[{3 run  [h-17 h006 w v] a` + "\nb\n" + `} {11 hardware a BMC; a PDU [] d` + "\n}]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
}

// decidedPages are the pages in which each sh block says whether it runs in a test. Those
// that run come in this order: the first hour needs a fleet that nobody has touched. Runbooks
// have a fleet of their own (TestDocsRunAtNight).
func decidedPages(t *testing.T) []string {
	t.Helper()
	pages := []string{"docs/first-hour.md", "README.md"}
	for _, glob := range []string{"docs/*.md", "docs/migration/*.md"} {
		found, err := filepath.Glob(repo(filepath.FromSlash(glob)))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			rel, err := filepath.Rel(repo(), f)
			if err != nil {
				t.Fatal(err)
			}
			if rel = filepath.ToSlash(rel); rel != pages[0] {
				pages = append(pages, rel)
			}
		}
	}
	return pages
}

// says is what the commands of a page must have said, besides having ended well.
var says = map[string][]string{
	"docs/first-hour.md": {
		"h003 is AVAILABLE", "healthy and protected",
		"# Incident report: host h003", "(A3, settled-off)", "the host was switched off and on again and came back",
		"h002 is DEGRADED", "its instances write",
		"state on your own responsibility", "h004 is FENCED", "is proven over (A5, operator)",
		"host/h-1 created", "HA does not look after this host while its partition is not ACTIVE", "none is on record; set it: holdfast power secret set h-1 bmc",
		"hosts AVAILABLE, 0 power commands",
	},
	"docs/operations.md": {"# Incident report", "disarmed until", "maintenance on", "fleet.tar.gz"},
}

// The commands of the pages do what they say: those marked `run: dev` are given to a real
// shell against a real `holdfast dev`, in the order in which a reader meets them.
func TestDocsRun(t *testing.T) {
	t.Parallel()
	type page struct {
		name   string
		blocks []block
	}
	var pages []page
	var command string
	for _, name := range decidedPages(t) {
		bs, err := blocks(readFile(t, filepath.FromSlash(name)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, b := range bs {
			for _, named := range testName.FindAllString(b.why, -1) {
				if !hasTest(t, named) {
					t.Errorf("%s:%d: %q: there is no %s", name, b.line, b.why, named)
				}
			}
			if b.kind == "machine" && name != "docs/install.md" {
				t.Errorf("%s:%d: TestSystemd runs docs/install.md alone", name, b.line)
			}
			if b.kind == "starts" && command != "" {
				t.Errorf("%s:%d: starts a second fleet", name, b.line)
			} else if b.kind == "starts" {
				command = strings.TrimSpace(b.text)
			}
		}
		pages = append(pages, page{name, bs})
	}
	args := strings.Fields(command)
	if len(args) < 2 || args[0] != "holdfast" || args[1] != "dev" || t.Failed() {
		t.Fatalf("the fleet is to be started with %q; wanted is holdfast dev …", command)
	}

	home, err := os.MkdirTemp("", "hf-docs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	bin := filepath.Dir(program(t, "holdfast"))
	if err := os.Symlink(bin, filepath.Join(home, "bin")); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+home, "XDG_CONFIG_HOME="+home, "TMPDIR="+home)
	_, said := start(t, env, program(t, "holdfast"), args[1:]...)
	until(t, time.Minute, func() string {
		if strings.Contains(said(), "\n  data  ") {
			return ""
		}
		return "not ready: " + said()
	})

	for i, p := range pages {
		var told strings.Builder
		n, began := 0, time.Now()
		for _, b := range p.blocks {
			if b.kind != "run" {
				continue
			}
			n++
			out, err := runBlock(t.Context(), env, home, b)
			told.WriteString(out)
			if err != nil {
				t.Fatalf("%s:%d: %v\n%s\n%s", p.name, b.line, err, b.text, out)
			}
		}
		if n > 0 {
			t.Logf("%s: %d blocks in %v", p.name, n, time.Since(began).Round(time.Second))
		}
		for _, want := range says[p.name] {
			if !strings.Contains(told.String(), want) {
				t.Errorf("%s: no %q in\n%s", p.name, want, told.String())
			}
		}
		if i == 0 {
			checkRehearsal(t, env)
		}
	}
}

// checkRehearsal asks the simulator what the first hour did to the power of its hosts.
func checkRehearsal(t *testing.T, env []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "holdfast"), "dev", "truth")
	cmd.Env = env
	out, err := cmd.Output()
	var told []struct{ BMC, Verb string }
	if err == nil {
		err = json.Unmarshal(out, &told)
	}
	if err != nil {
		t.Fatalf("holdfast dev truth: %v\n%s", err, out)
	}
	got := map[string]string{}
	for _, e := range told {
		if e.Verb != "identify" {
			got[e.BMC] += e.Verb + " "
		}
	}
	for host, want := range map[string]string{"h001": "", "h002": "", "h003": "off on ", "h004": "", "h005": ""} {
		if got[host] != want {
			t.Errorf("the BMC of %s was told %q, want %q:\n%s", host, got[host], want, out)
		}
	}
}

// testName is a test that a page names as the one which does what it tells.
var testName = regexp.MustCompile(`\bTest[A-Z]\w+`)

func hasTest(t *testing.T, name string) bool {
	t.Helper()
	err := exec.CommandContext(t.Context(), "grep", "-rqE", "--include=*_test.go", `^func `+name+`\(`, repo()).Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return err == nil
}

// runBlock gives a block to a shell that ends at the first command that fails, and returns
// all that was printed. What it started and left has ended with it.
func runBlock(ctx context.Context, env []string, dir string, b block) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute) // some 20 s at most on an idle machine
	defer cancel()
	text := strings.NewReplacer(b.swap...).Replace(b.text)
	cmd := exec.CommandContext(ctx, "sh", "-e", "-x", "-c", watching.ReplaceAllString(text, "timeout 2 $1 || test $$? = 124"))
	cmd.Dir, cmd.Env = dir, env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	return out.String(), err
}

// watching is a command that goes on until somebody stops it: it may not fail meanwhile.
var watching = regexp.MustCompile(`(?m)^(\S*holdfast .* -w)$`)
