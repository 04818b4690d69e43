// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell is what the sh blocks of a page say, in their order.
func shell(text string) string {
	var b strings.Builder
	in := false
	for l := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(l, "```"):
			in = strings.TrimSpace(l) == "```sh"
		case in:
			b.WriteString(l)
		}
	}
	return b.String()
}

// The walkthrough works as it stands: a real etcd of three members, three workers, an
// agent and the CLI, all with certificates of `holdfast pki`, on loopback.
func TestThreeNodes(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "hf-three-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "etcd"), "go.etcd.io/etcd/server/v3")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build etcd: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // it takes some 20 s of an idle machine
	defer cancel()
	cmd := exec.CommandContext(ctx, "nice", "sh", "-e", "-c", shell(readFile(t, "deploy", "examples", "three-nodes", "README.md")))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+filepath.Dir(program(t, "holdfast"))+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// All that the page starts is one process group, and ends with the test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	began := time.Now()
	err = cmd.Run()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // nobody is left after an orderly end
	if err != nil {
		for _, name := range []string{"etcd-1", "w1", "agent"} {
			text, _ := os.ReadFile(filepath.Join(dir, name+".log"))
			t.Logf("%s.log:\n%s", name, text[max(0, len(text)-2000):])
		}
		t.Fatalf("the walkthrough ended with %v after %v:\n%s", err, time.Since(began), out.String())
	}
	for _, want := range []string{"w1", "w2", "w3", "ready", "h-1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	t.Logf("took %v", time.Since(began).Round(time.Second))
}
