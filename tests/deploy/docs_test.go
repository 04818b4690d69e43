// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

var (
	inline   = regexp.MustCompile("`(holdfast [a-z][^`]*)`")
	flagName = regexp.MustCompile(`^--([a-z-]+)`)
	quoted   = regexp.MustCompile(`'[^']*'|"[^"]*"`)
	inner    = regexp.MustCompile(`\$\(([^()]*)\)`)
)

// helps are help texts by command line, as asked.
var helps sync.Map

func help(t *testing.T, words ...string) (string, bool) {
	t.Helper()
	key := strings.Join(words, " ")
	if h, ok := helps.Load(key); ok {
		return h.(string), h != ""
	}
	out, err := exec.CommandContext(t.Context(), program(t, "holdfast"), append(words, "--help")...).Output()
	text := string(out)
	// cobra shows the help of the parent for a word that it does not know.
	if use := strings.Fields(strings.SplitN(text+"Usage:\n  x", "Usage:\n", 2)[1]); err != nil || len(use) <= len(words) || use[len(words)] != words[len(words)-1] && !strings.Contains(text, "Aliases:") {
		text = ""
	}
	helps.Store(key, text)
	return text, text != ""
}

// checkCommand fails unless the CLI knows the command and each of its flags.
func checkCommand(t *testing.T, where, line string) {
	t.Helper()
	for _, p := range problems(t, line) {
		t.Errorf("%s: %s", where, p)
	}
}

// problems are what the CLI would not know of a command line.
func problems(t *testing.T, line string) (out []string) {
	t.Helper()
	errorf := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	line = strings.TrimSpace(quoted.ReplaceAllString(strings.SplitN(line, " #", 2)[0], "x"))
	for _, m := range inner.FindAllStringSubmatch(line, -1) {
		if strings.HasPrefix(m[1], "holdfast ") {
			out = append(out, problems(t, m[1])...)
		}
	}
	line = inner.ReplaceAllString(line, "x")
	for _, cut := range []string{" | ", " && ", ";", " > ", " <<"} {
		line, _, _ = strings.Cut(line, cut)
	}
	words := strings.Fields(line)[1:]
	var cmd []string
	text := ""
	for _, w := range words {
		if strings.HasPrefix(w, "-") || len(cmd) == 4 {
			break
		}
		if h, ok := help(t, append(cmd[:len(cmd):len(cmd)], w)...); ok {
			cmd, text = append(cmd, w), h
			continue
		}
		break
	}
	if len(cmd) == 0 {
		errorf("the CLI knows no %q", line)
		return out
	}
	if strings.Contains(text, "Available Commands:") && len(words) > len(cmd) && !strings.HasPrefix(words[len(cmd)], "-") {
		errorf("%q: %q has no %q", line, strings.Join(cmd, " "), words[len(cmd)])
	}
	for _, w := range words {
		if m := flagName.FindStringSubmatch(w); m != nil && !regexp.MustCompile(`(^|\s)--`+m[1]+`\b`).MatchString(text) {
			errorf("%q has no flag --%s", strings.Join(cmd, " "), m[1])
		}
	}
	return out
}

// The check below catches what it is for.
func TestDocsCommandsCatch(t *testing.T) {
	for _, bad := range []string{"holdfast frobnicate", "holdfast ha armm zone/z1", "holdfast get hosts --bogus", "holdfast power off h-1 --force", "holdfast incident report $(holdfast get incidents --bogus)", "holdfast incident report $(holdfast get incidents) --host h-1"} {
		if len(problems(t, bad)) == 0 {
			t.Errorf("%q passes", bad)
		}
	}
	for _, good := range []string{"holdfast", "holdfast get host h-1 -o json", "holdfast host maintenance on h-1 --reason 'a b'", "holdfast settings list ha.armed --scope host/h-1", "holdfast incident report $(holdfast get incidents --host h-1 -o name) -o html", "holdfast dev"} {
		if p := problems(t, good+" "); len(p) > 0 && good != "holdfast" {
			t.Errorf("%q: %v", good, p)
		}
	}
}

// Every command in the docs that operators read is one that the CLI knows, with its flags;
// every relative link leads somewhere.
func TestDocsCommands(t *testing.T) {
	var pages []string
	for _, glob := range []string{"docs/*.md", "docs/migration/*.md", "docs/runbooks/*.md", "deploy/*/README.md", "deploy/*/*/README.md"} {
		found, err := filepath.Glob(repo(filepath.FromSlash(glob)))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	n := 0
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: link to %s", page, m[1])
			}
		}
		for l := range strings.Lines(shell(text)) {
			if l = strings.TrimSpace(l); strings.HasPrefix(l, "holdfast ") {
				checkCommand(t, page, l)
				n++
			}
		}
		for _, m := range inline.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(m[1], "…") && !strings.Contains(m[1], "|") {
				checkCommand(t, page, m[1])
				n++
			}
		}
	}
	t.Logf("%d commands in %d pages", n, len(pages))
	if n < 100 {
		t.Errorf("only %d commands found", n)
	}
}
