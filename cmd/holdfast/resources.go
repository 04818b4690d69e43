// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

var poolsTable = print.Table[v1.Pool]{
	Kind: "pool", Plural: "pools",
	Name: func(p v1.Pool) string { return p.ID },
	Columns: []print.Column[v1.Pool]{
		{Name: "POOL", Value: func(p v1.Pool) any { return p.ID }},
		{Name: "TYPE", Value: func(p v1.Pool) any { return p.Type }},
		{Name: "ROLE", Value: func(p v1.Pool) any { return p.Role }},
		{Name: "HOSTS", Value: func(p v1.Pool) any {
			if len(p.Hosts) == 0 {
				return "those that name it"
			}
			return strings.Join(p.Hosts, ",")
		}},
	},
}

var volumesTable = print.Table[v1.Volume]{
	Kind: "volume", Plural: "volumes",
	Name: func(v v1.Volume) string { return v.ID },
	Columns: []print.Column[v1.Volume]{
		{Name: "VOLUME", Value: func(v v1.Volume) any { return v.ID }},
		{Name: "STATE", Value: func(v v1.Volume) any { return print.State(v.State) }},
		{Name: "POOL", Value: func(v v1.Volume) any { return v.Pool }},
		{Name: "SIZE", Value: func(v v1.Volume) any { return bytesText(v.Size) }},
		{Name: "INSTANCE", Value: func(v v1.Volume) any { return v.Instance }},
		{Name: "COMMAND", Value: func(v v1.Volume) any { return v.Command }},
		{Name: "AGE", Value: func(v v1.Volume) any { return v.Since }},
		{Name: "FORMAT", Wide: true, Value: func(v v1.Volume) any { return v.Format }},
		{Name: "PATH", Wide: true, Value: func(v v1.Volume) any { return v.Path }},
		{Name: "FROM", Wide: true, Value: func(v v1.Volume) any { return v.From }},
	},
}

var templatesTable = print.Table[v1.Template]{
	Kind: "template", Plural: "templates",
	Name: func(t v1.Template) string { return t.ID },
	Columns: []print.Column[v1.Template]{
		{Name: "TEMPLATE", Value: func(t v1.Template) any { return t.ID }},
		{Name: "FORMAT", Value: func(t v1.Template) any { return t.Format }},
		{Name: "SIZE", Value: func(t v1.Template) any { return bytesText(t.Size) }},
		{Name: "POOLS", Value: func(t v1.Template) any {
			var pools []string
			for _, c := range t.Copies {
				pools = append(pools, c.Pool)
			}
			return strings.Join(pools, ",")
		}},
		{Name: "COMMAND", Value: func(t v1.Template) any { return t.Command }},
	},
}

var instancesTable = print.Table[v1.Instance]{
	Kind: "instance", Plural: "instances",
	Name: func(i v1.Instance) string { return i.ID },
	Columns: []print.Column[v1.Instance]{
		{Name: "INSTANCE", Value: func(i v1.Instance) any { return i.ID }},
		{Name: "STATE", Value: func(i v1.Instance) any { return print.State(i.State) }},
		{Name: "HOST", Value: func(i v1.Instance) any { return i.Host }},
		{Name: "HA", Value: func(i v1.Instance) any { return yesNo(i.HA) }},
		{Name: "VOLUMES", Value: func(i v1.Instance) any { return strings.Join(i.Volumes, ",") }},
		{Name: "COMMAND", Value: func(i v1.Instance) any { return i.Command }},
		{Name: "AGE", Value: func(i v1.Instance) any { return i.Since }},
		{Name: "MEMORY", Wide: true, Value: func(i v1.Instance) any { return bytesText(int64(i.MemoryMiB) << 20) }},
		{Name: "CPUS", Wide: true, Value: func(i v1.Instance) any { return i.CPUs }},
	},
}

// bytesText is a size as people read it.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, u := float64(n), 0
	for ; f >= 1024 && u < len(units)-1; u++ {
		f /= 1024
	}
	if u == 0 || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, units[u])
	}
	return fmt.Sprintf("%.1f %s", f, units[u])
}

// describeResource is `holdfast describe` of one kind of resource.
func describeResource[T v1.Resource](e *env, kind, alias string, show func(*text, T)) *cobra.Command {
	return describeOne(e, kind, []string{kind + "s", alias}, completeResources[T](e), func(cmd *cobra.Command, api *v1.Client, id string) (any, func(*text), error) {
		r, err := v1.GetResource[T](cmd.Context(), api, id)
		return r, func(t *text) { show(t, r) }, err
	})
}

func completeResources[T v1.Resource](e *env) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return complete(e, cmd, listOf[T], func(r T) string { _, id, _ := r.Named(); return id })
	}
}

func listOf[T v1.Resource](api *v1.Client, ctx context.Context) ([]T, error) {
	return v1.Resources[T](ctx, api)
}

func (e *env) describeVolume(t *text, v v1.Volume) {
	t.field("Volume", v.ID)
	t.field("State", e.state(v.State)+sinceText(t, v.Since))
	t.field("Place", v.Place.String())
	t.field("Format", v.Format)
	t.field("Size", bytesText(v.Size))
	t.field("Instance", v.Instance)
	t.field("Copied from", v.From)
	t.field("Command", v.Command)
}

func (e *env) describeInstance(t *text, i v1.Instance) {
	t.field("Instance", i.ID)
	t.field("State", e.state(i.State)+sinceText(t, i.Since))
	t.field("Host", i.Host)
	t.field("HA", yesNo(i.HA))
	t.field("Memory", bytesText(int64(i.MemoryMiB)<<20))
	t.field("CPUs", fmt.Sprint(i.CPUs))
	t.field("Generation", fmt.Sprint(i.Generation))
	t.field("Command", i.Command)
	t.section("Volumes:", i.Volumes)
}

func describeResources(e *env) []*cobra.Command {
	return []*cobra.Command{
		describeResource(e, "pool", "pl", func(t *text, p v1.Pool) {
			t.field("Pool", p.ID)
			t.field("Type", p.Type)
			t.field("Role", p.Role)
			t.section("Hosts:", p.Hosts)
		}),
		describeResource(e, "volume", "v", e.describeVolume),
		describeResource(e, "template", "t", func(t *text, x v1.Template) {
			t.field("Template", x.ID)
			t.field("Format", x.Format)
			t.field("Size", bytesText(x.Size))
			t.field("Command", x.Command)
			var places []string
			for _, c := range x.Copies {
				places = append(places, c.String())
			}
			t.section("Copies:", places)
		}),
		describeResource(e, "instance", "vm", e.describeInstance),
	}
}

func getResources(e *env) []*cobra.Command {
	return []*cobra.Command{
		newGetListCmd(e, poolsTable, []string{"pool"}, listOf[v1.Pool]),
		newGetListCmd(e, volumesTable, []string{"volume", "v"}, listOf[v1.Volume]),
		newGetListCmd(e, templatesTable, []string{"template"}, listOf[v1.Template]),
		newGetListCmd(e, instancesTable, []string{"instance", "vm"}, listOf[v1.Instance]),
		newGetListCmd(e, commandsTable, []string{"command"}, allCommands),
	}
}

// resourceKinds are how documents of `holdfast apply` become resources.
var resourceKinds = map[string]func(context.Context, *v1.Client, document, bool, bool) (string, error){
	"pool": applyResource[v1.Pool], "volume": applyResource[v1.Volume], "template": applyResource[v1.Template], "instance": applyResource[v1.Instance],
}

// parseResource reads a document strictly and returns its id.
func parseResource(kind string, raw []byte) (id string, err error) {
	switch kind {
	case "pool":
		_, id, err = decodeResource[v1.Pool](raw)
	case "volume":
		_, id, err = decodeResource[v1.Volume](raw)
	case "template":
		_, id, err = decodeResource[v1.Template](raw)
	default:
		_, id, err = decodeResource[v1.Instance](raw)
	}
	if err == nil && id == "" {
		err = fmt.Errorf("id: empty, a %s needs one", kind)
	}
	return id, err
}

func decodeResource[T v1.Resource](raw []byte) (r T, id string, err error) {
	fields := map[string]any{}
	if err := yaml.Unmarshal(raw, &fields); err != nil {
		return r, "", err
	}
	delete(fields, "kind")
	b, err := yaml.Marshal(fields)
	if err == nil {
		err = strict(b, &r)
	}
	_, id, _ = r.Named()
	return r, id, err
}

func applyResource[T v1.Resource](ctx context.Context, api *v1.Client, d document, force, dry bool) (string, error) {
	now, err := v1.GetResource[T](ctx, api, d.name)
	_, _, have := now.Named()
	revision, what, err := found(have, err)
	if err != nil {
		return "", err
	}
	r, _, err := decodeResource[T](d.raw)
	if err != nil {
		return "", usage(err)
	}
	if revision > 0 && covers(d.raw, now) {
		return "unchanged", nil
	}
	_, err = v1.PutResource(ctx, api, r, revision, force, dry)
	return what, err
}

// covers says whether all that a document says is so already; what only commands change
// it does not mention.
func covers(raw []byte, now any) bool {
	want, have := map[string]any{}, map[string]any{}
	b, err := yaml.Marshal(now)
	if err = errors.Join(err, yaml.Unmarshal(raw, &want), yaml.Unmarshal(b, &have)); err != nil {
		return false
	}
	delete(want, "kind")
	for k, v := range want {
		if !same(v, have[k]) {
			return false
		}
	}
	return true
}
