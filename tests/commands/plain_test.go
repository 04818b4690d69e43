// SPDX-License-Identifier: Apache-2.0

package commands

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// scene is two hosts with pools of their own, a volume, and what is to be done with it.
type scene struct {
	r              *rig
	t              *testing.T
	name           string
	source, target *host
	from, to, far  dirs.Dir // far is local to the target
	volumes        []string
	inst           string
	req            v1.CommandRequest
}

// kinds are what commands do, and to what.
var kinds = []string{"copy", "template", "move-stopped", "move-live", "migrate", "migrate-with"}

// newScene makes the hosts and resources of one case; from and to are the types of the
// pools.
func newScene(t *testing.T, r *rig, name, kind string, from, to hypervisor.PoolType) *scene {
	s := &scene{r: r, t: t, name: name}
	src, dst := "s-"+name, "t-"+name
	hostsOf := func(typ hypervisor.PoolType) []string {
		if typ == hypervisor.Local {
			return []string{src}
		}
		return []string{src, dst}
	}
	if kind == "migrate" {
		from = hypervisor.NFS
	}
	s.from = r.pool("a-"+name, from, "primary", hostsOf(from)...)
	s.to = r.pool("b-"+name, to, "primary", hostsOf(to)...)
	s.far = r.pool("c-"+name, hypervisor.Local, "primary", dst) // migrations go there
	have := []dirs.Dir{s.from, s.to}
	theirs := []dirs.Dir{s.far}
	for _, p := range have {
		if p.Type == hypervisor.NFS {
			theirs = append(theirs, p)
		}
	}
	s.source = r.host(src, have...)
	if strings.HasPrefix(kind, "migrate") {
		s.target = r.host(dst, theirs...)
	}
	s.volumes = []string{"v-" + name}
	switch kind {
	case "copy":
		r.volume("v-"+name, s.from, "")
		s.volumes = append(s.volumes, "n-"+name)
		s.req = v1.CommandRequest{Kind: "copy", Volume: "v-" + name, Pool: s.to.ID, As: "n-" + name, Host: src}
	case "template":
		v := r.volume("v-"+name, s.from, "")
		r.put("/holdfast/v1/templates/v-"+name, v1.Template{V: 1, ID: "v-" + name, Format: "raw", Size: diskSize, Copies: []v1.Place{v.Place}})
		s.volumes = append(s.volumes, "n-"+name)
		s.req = v1.CommandRequest{Kind: "copy", Template: "v-" + name, Pool: s.to.ID, As: "n-" + name, Host: src}
	case "move-stopped", "move-live":
		s.inst = "i-" + name
		r.instance(s.inst, s.source, kind == "move-live", r.volume("v-"+name, s.from, s.inst))
		s.req = v1.CommandRequest{Kind: "migrate-volume", Volume: "v-" + name, Pool: s.to.ID}
	case "migrate", "migrate-with":
		s.inst = "i-" + name
		r.instance(s.inst, s.source, true, r.volume("v-"+name, s.from, s.inst))
		s.req = v1.CommandRequest{Kind: "migrate", Instance: s.inst, Host: dst, Force: true}
		if kind == "migrate-with" {
			s.req.Pool = s.far.ID
		}
	}
	return s
}

// ask asks for the command as soon as the host's owner sees the instance as it is.
func (s *scene) ask() v1.Command {
	s.t.Helper()
	s.r.linked(s.hosts()...)
	if s.inst != "" && s.req.Kind != "copy" {
		i, _ := record[v1.Instance](s.r, "/holdfast/v1/instances/"+s.inst)
		eventually(s.t, "the agent reports the instance", func() bool {
			h, err := s.r.api.Host(context.Background(), s.source.id)
			return err == nil && (len(h.Status.Instances) > 0) == (i.State == "running")
		})
	}
	var c v1.Command
	var err error
	eventually(s.t, "command of "+s.name+" is on record", func() bool {
		s.req.Key = "k-" + strings.ReplaceAll(s.name, "/", ".")
		c, err = s.r.api.NewCommand(context.Background(), s.req)
		return err == nil
	})
	if err != nil {
		s.t.Errorf("ask for %+v: %v", s.req, err)
	}
	return c
}

func (s *scene) check(rec command.Record) {
	s.t.Helper()
	s.r.check(s.t, rec, []dirs.Dir{s.from, s.to, s.far}, s.volumes, s.inst, s.hosts()...)
}

func (s *scene) hosts() []*host {
	if s.target == nil {
		return []*host{s.source}
	}
	return []*host{s.source, s.target}
}

// Pairs that must work: local↔nfs, local→local, nfs→nfs; each kind, undisturbed.
func TestEveryPair(t *testing.T) {
	r := newRig(t)
	r.worker("w1")
	types := []hypervisor.PoolType{hypervisor.Local, hypervisor.NFS}
	t.Run("pairs", func(t *testing.T) {
		n := 0
		for _, kind := range kinds {
			for _, from := range types {
				for _, to := range types {
					n++
					name := fmt.Sprintf("%s-%d", kind, n)
					t.Run(fmt.Sprintf("%s/%s-%s", kind, from, to), func(t *testing.T) {
						t.Parallel()
						s := newScene(t, r, name, kind, from, to)
						c := s.ask()
						rec := r.over(c.Host, c.ID)
						if rec.State != command.Completed || !rec.Outcome.Done {
							t.Errorf("%s: %s", rec.State, rec.Reason)
						}
						s.check(rec)
						audits, err := r.api.Audits(t.Context(), c.Host, 100)
						if i := slices.IndexFunc(audits, func(a v1.Audit) bool {
							return a.What == "command.created" && strings.Contains(a.Message, c.ID)
						}); i < 0 || audits[i].Changes[0].Key != "commands/"+c.Host+"/"+c.ID || len(audits[i].Changes[0].Before) > 0 || len(audits[i].Changes[0].After) == 0 {
							t.Errorf("the command is not audited, or not with what it is: %+v, %v", audits, err)
						}
					})
				}
			}
		}
	})
}
