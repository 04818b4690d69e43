// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	etcdversion "go.etcd.io/etcd/api/v3/version"
)

// row is one target and what became of it.
type row struct {
	Part                   string // of the run that measured it (-only)
	What, Target, Measured string
	Value, Limit           float64 // both in the target's own unit; lower is better
	Parts                  []string
	Why                    string // where the time goes; shown where the target is missed

	fresh bool // of this run: rows of one name (the same) are told apart by their order
}

func (r row) met() bool { return r.Value <= r.Limit }

// verdict says whether the target is met and by how much.
func (r row) verdict() string {
	switch {
	case r.Limit == 0 && r.met():
		return "met"
	case r.Limit == 0:
		return fmt.Sprintf("**missed** by %.3g", r.Value)
	case r.met():
		return fmt.Sprintf("met, at %.0f %% of it", 100*r.Value/r.Limit)
	}
	return fmt.Sprintf("**missed**, %.2f × the target", r.Value/r.Limit)
}

// report collects what was measured.
type report struct {
	n        size
	rows     []row
	floor    floor
	began    time.Time
	took     time.Duration
	disk     string
	load     [2]string // average of a minute, at the beginning and at the end
	revision string
	part     string // that is being measured
}

func newReport(n size) *report {
	r := &report{n: n, began: time.Now(), revision: "unknown"}
	r.load[0] = load()
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		r.revision = strings.TrimSpace(string(out))
	}
	return r
}

func (r *report) add(x row) {
	x.Part = r.part
	r.rows = append(r.rows, x)
}

// saved is what a page was made of: it lies beside the page, so that a run of some parts
// replaces their rows alone.
type saved struct {
	Head, Again string
	Rows        []row
}

// write writes the page and what it was made of. A run of some parts (-only) takes the head and
// all other rows from the last run of everything.
func (r *report) write(page string) error {
	data := strings.TrimSuffix(page, filepath.Ext(page)) + ".json"
	s := saved{Head: r.head(), Rows: r.rows}
	if *only != "" {
		text, err := os.ReadFile(data)
		if err != nil {
			return fmt.Errorf("-only with -page replaces rows of an earlier run of everything: %w", err)
		}
		var last saved
		if err := json.Unmarshal(text, &last); err != nil {
			return fmt.Errorf("read %s: %w", data, err)
		}
		last.Again += fmt.Sprintf("| measured again | %s: %s, version %s, load average %s to %s, floors %s |\n", *only, r.began.UTC().Format("2006-01-02"), r.revision, r.load[0], r.load[1], r.floor)
		last.Rows = merged(last.Rows, r.rows)
		s = last
	}
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	all := report{rows: s.Rows}
	return errors.Join(os.WriteFile(data, append(text, '\n'), 0o644), os.WriteFile(page, []byte(s.Head+s.Again+tail+all.body()), 0o644))
}

// merged puts rows in the place of those of the same thing; new ones follow the last of their part.
func merged(old, fresh []row) []row {
	for _, x := range fresh {
		at := slices.IndexFunc(old, func(y row) bool { return y.Part == x.Part && y.What == x.What && y.Target == x.Target && !y.fresh })
		x.fresh = true
		if at >= 0 {
			old[at] = x
			continue
		}
		at = len(old)
		for i, y := range old {
			if y.Part == x.Part {
				at = i + 1
			}
		}
		old = slices.Insert(old, at, x)
	}
	return old
}

func (r *report) finish() { r.took, r.load[1] = time.Since(r.began), load() }

func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(text), " ")
	return one
}

func (r *report) table() string {
	var b strings.Builder
	b.WriteString("| what | target | measured | |\n|---|---|---|---|\n")
	for _, x := range r.rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", x.What, x.Target, x.Measured, x.verdict())
	}
	return b.String()
}

// head is the page up to the rows of its first table.
func (r *report) head() string {
	var b strings.Builder
	b.WriteString("# Performance\n\nWritten by `make bench`, which measures everything below in one run on one machine: three etcd members as " +
		"processes of their own that sync to disk, three workers as shipped (parent and child), agents and BMCs simulated. " +
		"**P** is the median of one put, **X** that of one transaction of 128 puts, one at a time, taken right before and right after what is " +
		"held against them. Trust the ratios, not the times.\n\n")
	fmt.Fprintf(&b, "| | |\n|---|---|\n| date | %s |\n| version | %s |\n| machine | %d cores, %d GiB memory, %s, Linux %s, data on %s |\n| etcd | %s, embedded, defaults (election 1 s, heartbeat 100 ms) |\n| Go | %s |\n| load average | %s at the beginning, %s at the end |\n| took | %v |\n| floors over the whole run | %s |\n",
		r.began.UTC().Format("2006-01-02"), r.revision, runtime.NumCPU(), memory(), runtime.GOARCH, kernel(), r.disk, etcdversion.Version, strings.TrimPrefix(runtime.Version(), "go"),
		r.load[0], r.load[1], r.took.Round(time.Second), r.floor)
	return b.String()
}

const tail = "\nTo reproduce: `make bench`. The machine should have nothing else to do: workers, etcd members and what measures them share its cores.\n\n"

// body is what was measured.
func (r *report) body() string {
	var b strings.Builder
	b.WriteString("## Targets\n\n")
	b.WriteString(r.table())
	b.WriteString("\nStale writes and stray opposite verbs (0 in ≥ 10⁵ attempts, 0 in ≥ 1,000 pauses) are counted by `make chaos MODE=fencing` and `make chaos MODE=pauses`, which print their numbers.\n\n## Where the time goes\n")
	said := map[string]bool{}
	for _, x := range r.rows {
		if len(x.Parts) == 0 && (x.met() || x.Why == "" || said[x.Why]) {
			continue
		}
		fmt.Fprintf(&b, "\n**%s** (%s)\n\n", x.What, x.verdict())
		for _, p := range x.Parts {
			fmt.Fprintf(&b, "- %s\n", p)
		}
		if !x.met() && x.Why != "" && !said[x.Why] {
			said[x.Why] = true
			fmt.Fprintf(&b, "\n%s\n", x.Why)
		}
	}
	return b.String()
}

func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(text)), "-") // without its builder
	return version
}

func memory() uint64 {
	var s syscall.Sysinfo_t
	if syscall.Sysinfo(&s) != nil {
		return 0
	}
	return (s.Totalram*uint64(s.Unit) + 1<<29) >> 30
}

// filesystem names the kind of file system that a directory is on: on one in memory,
// floors are lower than on any real machine.
func filesystem(dir string) string {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return "unknown"
	}
	if name, ok := map[int64]string{0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs (no disk!)", 0x794c7630: "overlayfs"}[int64(s.Type)]; ok {
		return name
	}
	return fmt.Sprintf("file system %#x", s.Type)
}
