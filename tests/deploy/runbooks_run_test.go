// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// onMachine are the programs whose lines a block that runs against a dev fleet leaves to
// TestSystemd: they ask systemd or look at a folder of the packages.
var onMachine = []string{"journalctl", "systemctl", "ls", "df"}

// unready brings a fleet of `holdfast dev` into the states that runbooks are about, side by
// side: c1 has a host that died with its BMC, c2 is disarmed and has one that died, c3 is in
// maintenance; one copy has failed, one hook is switched off.
const unready = `
cat > things.yaml <<END
kind: pool
id: pool-c1
type: nfs
role: primary
---
kind: volume
id: v7
pool: pool-c1
path: v7.raw
format: raw
size: 1048576
END
holdfast pki init --dir pki
holdfast pki issue worker worker-1 --dir pki --dns worker-1.example
holdfast wait hosts --for state=AVAILABLE --timeout 1m
holdfast ha disarm cluster/z1/p1/c2 --reason 'new switches'
holdfast dev break h002 --how bmc-dead
holdfast dev break h002 --how crash
holdfast dev break h005 --how crash
for h in h009 h010 h011; do holdfast host maintenance on $h --reason 'new memory'; done
holdfast webhook add ticket --exec /usr/bin/true
holdfast webhook disable ticket
holdfast apply -f things.yaml
holdfast volume copy v7 --to pool-c1 --as v8
holdfast get commands -o jsonpath='{.items[0].id}' > command
until holdfast get commands | grep FAILED; do sleep 0.2; done
until holdfast explain host h005 | grep 'held by armed'; do sleep 0.2; done
until holdfast explain host h002 | grep 'held by power'; do sleep 0.2; done
until holdfast explain partition z1/p2/c3 | grep 'is INACTIVE'; do sleep 0.2; done
`

// storm makes the rest of c2 silent, too: what they share is the suspect then.
const storm = `
for h in h006 h007 h008; do holdfast dev break $h --how agent-killed; done
for h in h006 h007 h008; do until holdfast describe area pool/pool-c2 | grep -F -- "- $h:"; do sleep 0.2; done; done
`

// inStorm are the runbooks about many hosts at once; they run last.
var inStorm = []string{
	"HoldfastSuspectStorm.md", "HoldfastAgentsReconnectStorm.md", "HoldfastActivityChecksFailing.md",
	"hold-common-cause.md", "hold-cooldown.md", "hold-share.md", "hold-storage.md",
}

// shows is what a runbook's commands must have said in that fleet: what the page is about.
var shows = map[string][]string{
	"HoldfastBMCUnreachable.md":       {"h002", "never answered"},
	"HoldfastFenceHeld.md":            {"held by armed", "z1/p1/c2 is ACTIVE"},
	"HoldfastHADisarmedTooLong.md":    {"new switches"},
	"HoldfastHostUnwell.md":           {"h002", "held by power"},
	"HoldfastPartitionInactive.md":    {"is INACTIVE"},
	"HoldfastWebhookDisabled.md":      {"ticket   off"},
	"HoldfastSlotsUnowned.md":         {`"worker":"w1"`},
	"HoldfastCertificateExpiring.md":  {"worker/worker-1\n"},
	"HoldfastCommandsNeedOperator.md": {"v7.raw is not there"},
	"HoldfastSuspectStorm.md":         {"pool/pool-c2 is in a storm"},
	"hold-common-cause.md":            {"hosts under it fell within"},
	"hold-storage.md":                 {"hosts under it fell within"},
	"hold-share.md":                   {"pool/pool-c2 is in a storm"},
	"hold-armed.md":                   {"held by armed", "new switches"},
	"hold-power.md":                   {"h002", "never answered"},
}

// runbookBlocks are the blocks of each runbook.
func runbookBlocks(t *testing.T) map[string][]block {
	t.Helper()
	pages, err := filepath.Glob(repo("docs", "runbooks", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]block{}
	for _, p := range pages {
		bs, err := blocks(readFile(t, "docs", "runbooks", filepath.Base(p)))
		if err != nil {
			t.Errorf("%s: %v", p, err)
		}
		out[filepath.Base(p)] = bs
	}
	return out
}

// machineLines are the lines of runbooks that a machine has to answer.
func machineLines(t *testing.T) (out []string) {
	t.Helper()
	for _, bs := range runbookBlocks(t) {
		for _, b := range bs {
			for l := range strings.Lines(b.text) {
				if b.kind == "run" && slices.Contains(onMachine, strings.Fields(l)[0]) && !slices.Contains(out, l) {
					out = append(out, l)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// Who follows a runbook at night finds commands that work: those of all pages are given to a
// real shell, in a fleet in which something of what they are about is so.
func TestDocsRunAtNight(t *testing.T) {
	t.Parallel()
	home, err := os.MkdirTemp("", "hf-runbooks-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	env := append(os.Environ(), "PATH="+filepath.Dir(program(t, "holdfast"))+":"+os.Getenv("PATH"), "HOME="+home, "XDG_CONFIG_HOME="+home, "TMPDIR="+home)
	_, said := start(t, env, program(t, "holdfast"), "dev", "--preset", "fast")
	until(t, time.Minute, func() string {
		if strings.Contains(said(), "\n  data  ") {
			return ""
		}
		return "not ready: " + said()
	})
	etcd := regexp.MustCompile(`(?m)^  etcd  (\S+)$`).FindStringSubmatch(said())
	if etcd == nil {
		t.Fatalf("no address of etcd in\n%s", said())
	}
	env = append(env, "ETCDCTL_API=3", "ETCDCTL_ENDPOINTS="+etcd[1])
	swaps := func() []string {
		command, err := os.ReadFile(filepath.Join(home, "command"))
		if err != nil {
			t.Fatal(err)
		}
		// A dev fleet's etcd is one member, which does not know under which address.
		return []string{"COMMAND", strings.TrimSpace(string(command)), " --cluster", ""}
	}
	all, began, n := runbookBlocks(t), time.Now(), 0
	for _, late := range []bool{false, true} {
		state := map[bool]string{false: unready, true: storm}[late]
		if out, err := runBlock(t.Context(), env, home, block{text: state}); err != nil {
			t.Fatalf("%s: %v\n%s", state, err, out)
		}
		t.Logf("fleet as wanted after %v", time.Since(began).Round(time.Second))
		var work errgroup.Group
		work.SetLimit(4)
		for page, bs := range all {
			if slices.Contains(inStorm, page) != late {
				continue
			}
			n += len(bs)
			work.Go(func() error { runRunbook(t, env, home, page, bs, swaps()); return nil })
		}
		_ = work.Wait() // they have told the test
	}
	t.Logf("%d blocks of %d runbooks in %v", n, len(all), time.Since(began).Round(time.Second))
	if n < 40 {
		t.Errorf("only %d blocks of runbooks", n)
	}
}

// runRunbook runs the blocks of one page that a dev fleet can answer.
func runRunbook(t *testing.T, env []string, dir, page string, bs []block, swap []string) {
	t.Helper()
	var told strings.Builder
	for _, b := range bs {
		if b.kind != "run" {
			continue
		}
		var here strings.Builder
		for l := range strings.Lines(b.text) {
			if !slices.Contains(onMachine, strings.Fields(l)[0]) {
				here.WriteString(l)
			}
		}
		b.text, b.swap = here.String(), append(b.swap, swap...)
		out, err := runBlock(t.Context(), env, dir, b)
		if err != nil {
			t.Errorf("docs/runbooks/%s:%d: %v\n%s", page, b.line, err, out)
		}
		told.WriteString(out)
	}
	for _, want := range shows[page] {
		if !strings.Contains(told.String(), want) {
			t.Errorf("docs/runbooks/%s: no %q in\n%s", page, want, told.String())
		}
	}
}
