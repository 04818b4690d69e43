// SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// specs of the golden looks: volume v goes from a:old to b:new; i3 from h1 to h2.
var specs = map[string]Spec{
	"copy":                   {Kind: Copy, Items: []Item{{Volume: "v", Format: "qcow2", From: Ref{"a", "old"}, To: Ref{"b", "new"}, Temporary: ".new.part"}}},
	"migrate-volume":         {Kind: MigrateVolume, Items: []Item{{Volume: "v", Format: "qcow2", From: Ref{"a", "old"}, To: Ref{"b", "new"}, Temporary: ".new.part"}}},
	"migrate-volume-stopped": {Kind: MigrateVolume, Instance: "i3", Items: []Item{{Volume: "v", Format: "qcow2", From: Ref{"a", "old"}, To: Ref{"b", "new"}, Temporary: ".new.part"}}},
	"migrate-volume-live":    {Kind: MigrateVolume, Live: true, Instance: "i3", Items: []Item{{Volume: "v", Format: "qcow2", From: Ref{"a", "old"}, To: Ref{"b", "new"}}}},
	"migrate":                {Kind: Migrate, Live: true, Instance: "i3", Target: "h2"},
	"migrate-with":           {Kind: Migrate, Live: true, Instance: "i3", Target: "h2", Items: []Item{{Volume: "v", Format: "qcow2", From: Ref{"a", "old"}, To: Ref{"b", "new"}}}},
}

// parseEvidence reads one host a line:
//
//	h1: i3=running/a:old job=present/b:new a:old=present b:new=?(pool is gone) working
//	h2: ?(not linked)  over=fence proof
//
// an instance's disk with a slash in front lies in no pool: i3=running//dev/sdb.
// files: present, present/user+user, present/users?, absent, ?(why).
func parseEvidence(t *testing.T, text string) Evidence {
	e := Evidence{Hosts: map[string]HostEvidence{}, Over: map[string]string{}}
	for line := range strings.Lines(text) {
		host, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		h := HostEvidence{Host: host, Answered: true, Boot: "b", Files: map[string]FileSight{}}
		rest, over, ok := strings.Cut(rest, " over=")
		if ok {
			e.Over[host] = over
		}
		for word := range strings.FieldsSeq(rest) {
			name, value, _ := strings.Cut(word, "=")
			value, detail, _ := strings.Cut(value, "/")
			answer := Answer(value)
			why := ""
			if strings.HasPrefix(value, "?") {
				answer, why = CouldNotLook, strings.Trim(value, "?()")
			}
			switch {
			case strings.HasPrefix(word, "?"):
				h.Answered, h.Why = false, strings.Trim(word, "?()")
			case word == "working":
				h.Working = true
			case name == "i3":
				h.Instance = InstanceSight{Answer: answer, Why: why}
				if answer != Absent && answer != CouldNotLook {
					h.Instance.Answer, h.Instance.State = Present, value
					for d := range strings.SplitSeq(detail, ",") {
						if strings.HasPrefix(d, "/") {
							h.Instance.Elsewhere = append(h.Instance.Elsewhere, d)
							continue
						}
						h.Instance.Disks = append(h.Instance.Disks, parseRef(d))
					}
				}
			case name == "job":
				h.Job = JobSight{Answer: answer, Why: why, To: parseRef(detail), Done: 1, Total: 2}
			case strings.Contains(name, ":"):
				s := FileSight{Answer: answer, Why: why}
				if detail == "users?" {
					s.Unknown = "no answer"
				} else if detail != "" {
					s.Users = strings.Split(detail, "+")
				}
				h.Files[name] = s
			default:
				t.Fatalf("word %q of %q", word, line)
			}
		}
		e.Hosts[host] = h
	}
	return e
}

func parseRef(s string) Ref {
	pool, path, _ := strings.Cut(s, ":")
	return Ref{pool, path}
}

// TestJudge: the evidence of every interruption, and what follows from it.
func TestJudge(t *testing.T) {
	datadriven.Walk(t, "testdata/judge", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			spec, ok := specs[d.Cmd]
			if !ok {
				t.Fatalf("no spec %q", d.Cmd)
			}
			r := New("0198c1d2-7f6a-7c11-9a53-1f2e3d4c5b6a", "h1", "op", "", spec, nil, at(0), at(0))
			j := Judge(r, parseEvidence(t, d.Input))
			var b strings.Builder
			fmt.Fprintf(&b, "%s: %s\n", j.Verdict, j.Why)
			if j.Reattach {
				b.WriteString("re-attach\n")
			}
			if j.Split {
				b.WriteString("split\n")
			}
			if j.Ran != "" {
				fmt.Fprintf(&b, "instance: %s\n", j.Ran)
			}
			for _, a := range j.Left {
				fmt.Fprintf(&b, "%s", a)
				if a.Not != "" {
					fmt.Fprintf(&b, " NOT NOW: %s", a.Not)
				}
				b.WriteString("\n")
			}
			return b.String()
		})
	})
}
