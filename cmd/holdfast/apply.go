// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// document is one YAML document of a file.
type document struct {
	from string // file and number, for errors
	kind string // host, partition, profile, pool, volume, template, instance
	name string
	raw  []byte
}

// newApplyCmd is `holdfast apply`.
func newApplyCmd(e *env) *cobra.Command {
	var files []string
	var dry, force bool
	c := &cobra.Command{
		Use: "apply -f FILE", Short: "Declare hosts, partitions, power profiles, pools, volumes, templates and instances from YAML or JSON files", Args: cobra.NoArgs,
		Long: "Declares every document of the files: `kind: host` or `kind: partition`, then the fields of its spec; or `kind: profile` with its scope and fields; or `kind: pool`, `volume`, `template` or `instance`. Everything is read and checked before the first write; what is the same already stays untouched.\n" +
			"Maintenance, HA and enabled switches and pinned identities that a document does not mention are kept.",
		Example: `  # a host
  holdfast apply -f - <<EOF
  kind: host
  id: h-17
  partition: z1/p1/c1
  pools: [pool-a]
  power: [{name: bmc, driver: ipmi, address: 10.0.3.17, user: holdfast, secret: file:/etc/holdfast/secrets/h-17}]
  EOF

  # how all BMCs of a zone are reached; its hosts then need name and address only
  holdfast apply -f - <<EOF
  kind: profile
  scope: zone/z1
  fields: {device.bmc.driver: redfish, device.bmc.user: holdfast, device.bmc.secret: "file:{host}"}
  EOF

  # what would change
  holdfast apply -f fleet.yaml --dry-run

  # several files
  holdfast apply -f partitions.yaml -f hosts.yaml`,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(files) == 0 {
			return usage(errors.New("file: empty, at least one -f FILE is needed, - is standard input"))
		}
		var docs []document
		for _, f := range files {
			more, err := e.readDocuments(f)
			if err != nil {
				return err
			}
			docs = append(docs, more...)
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		var errs []error
		for _, d := range docs {
			what, err := apply(cmd.Context(), api, d, force, dry)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s/%s (%s): %w", d.kind, d.name, d.from, err))
				continue
			}
			if dry && what != "unchanged" {
				what += " (dry run)"
			}
			if _, err := fmt.Fprintf(e.Stdout, "%s/%s %s\n", d.kind, d.name, what); err != nil {
				return err
			}
		}
		return errors.Join(errs...)
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "file to read, - for standard input; may be given several times")
	c.Flags().BoolVar(&force, "force", false, "an instance may be on a host that placement refuses for it")
	c.Flags().BoolVar(&dry, "dry-run", false, "check and show only, change nothing")
	return c
}

// readDocuments reads and checks a file; nothing is sent yet.
func (e *env) readDocuments(file string) ([]document, error) {
	var b []byte
	var err error
	if file == "-" {
		b, err = io.ReadAll(e.Stdin)
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, usage(fmt.Errorf("read %s: %w", file, err))
	}
	var docs []document
	for i, raw := range splitYAML(string(b)) {
		d, err := parseDocument(raw)
		if err != nil {
			return nil, usage(fmt.Errorf("%s, document %d: %w", file, i+1, err))
		}
		d.from = fmt.Sprintf("%s, document %d", file, i+1)
		docs = append(docs, d)
	}
	if len(docs) == 0 {
		return nil, usage(fmt.Errorf("%s: empty, at least one document is needed", file))
	}
	return docs, nil
}

// splitYAML cuts a stream at its `---` lines and leaves out documents without content.
func splitYAML(s string) []string {
	var docs []string
	var cur strings.Builder
	flush := func() {
		var v any
		if err := yaml.Unmarshal([]byte(cur.String()), &v); err != nil || v != nil {
			docs = append(docs, cur.String())
		}
		cur.Reset()
	}
	for line := range strings.Lines(s) {
		if l := strings.TrimRight(line, " \r\n"); l == "---" || strings.HasPrefix(l, "--- ") {
			flush()
			continue
		}
		cur.WriteString(line)
	}
	flush()
	return docs
}

type hostDocument struct {
	Kind string `json:"kind"`
	v1.HostSpec
}

type partitionDocument struct {
	Kind string `json:"kind"`
	v1.PartitionSpec
}

// profileDocument is all that a scope says: fields it does not mention are taken back.
type profileDocument struct {
	Kind   string            `json:"kind"`
	Scope  string            `json:"scope"`
	Fields map[string]string `json:"fields"`
}

func parseDocument(raw string) (document, error) {
	var head struct {
		Kind string `json:"kind"`
	}
	if err := yaml.Unmarshal([]byte(raw), &head); err != nil {
		return document{}, err
	}
	d := document{kind: strings.ToLower(head.Kind), raw: []byte(raw)}
	switch d.kind {
	case "pool", "volume", "template", "instance":
		var err error
		if d.name, err = parseResource(d.kind, d.raw); err != nil {
			return d, err
		}
	case "host":
		var h hostDocument
		if err := strict(d.raw, &h); err != nil {
			return d, err
		}
		d.name = h.ID
		if d.name == "" {
			return d, errors.New("id: empty, a host needs one")
		}
	case "partition":
		var p partitionDocument
		if err := strict(d.raw, &p); err != nil {
			return d, err
		}
		d.name = p.Path
		if d.name == "" {
			return d, errors.New("path: empty, a partition needs one")
		}
	case "profile":
		var p profileDocument
		if err := strict(d.raw, &p); err != nil {
			return d, err
		}
		d.name = p.Scope
		if d.name == "" {
			return d, errors.New("scope: empty, a profile needs one")
		}
	default:
		return d, fmt.Errorf("kind: %q, allowed are host, partition, profile, pool, volume, template and instance", head.Kind)
	}
	return d, nil
}

// apply writes one document over what is there and says what that came to.
func apply(ctx context.Context, api *v1.Client, d document, force, dry bool) (string, error) {
	if put := resourceKinds[d.kind]; put != nil {
		return put(ctx, api, d, force, dry)
	}
	switch d.kind {
	case "host":
		return applyHost(ctx, api, d, dry)
	case "profile":
		return applyProfile(ctx, api, d, dry)
	}
	return applyPartition(ctx, api, d, dry)
}

func applyHost(ctx context.Context, api *v1.Client, d document, dry bool) (string, error) {
	now, err := api.Host(ctx, d.name)
	revision, what, err := found(now.Revision, err)
	if err != nil {
		return "", err
	}
	// The switches belong to `holdfast host` and `holdfast ha`, the identities to the power
	// test: what the document does not mention stays.
	old := now.Spec
	h := hostDocument{HostSpec: v1.HostSpec{V: 1, Maintenance: old.Maintenance, HADisabled: old.HADisabled, Disabled: old.Disabled, Why: old.Why}}
	if err := strict(d.raw, &h); err != nil {
		return "", usage(err)
	}
	for i, dev := range h.Power {
		for _, was := range old.Power {
			if dev.Identity == (v1.Identity{}) && was.Name == dev.Name && was.Driver == dev.Driver && was.Address == dev.Address {
				h.Power[i].Identity = was.Identity
			}
		}
	}
	if revision > 0 && same(h.HostSpec, old) {
		return "unchanged", nil
	}
	_, err = api.PutHost(ctx, h.HostSpec, revision, dry)
	return what, err
}

func applyPartition(ctx context.Context, api *v1.Client, d document, dry bool) (string, error) {
	now, err := api.Partition(ctx, d.name)
	revision, what, err := found(now.Revision, err)
	if err != nil {
		return "", err
	}
	old := now.Spec
	p := partitionDocument{PartitionSpec: v1.PartitionSpec{V: 1, Disabled: old.Disabled, HADisabled: old.HADisabled, Why: old.Why}}
	if err := strict(d.raw, &p); err != nil {
		return "", usage(err)
	}
	if revision > 0 && same(p.PartitionSpec, old) {
		return "unchanged", nil
	}
	if dry {
		return what, nil
	}
	_, err = api.PutPartition(ctx, p.PartitionSpec, revision)
	return what, err
}

func applyProfile(ctx context.Context, api *v1.Client, d document, dry bool) (string, error) {
	now, err := api.PowerProfile(ctx, d.name)
	if err != nil {
		return "", err
	}
	var p profileDocument
	if err := strict(d.raw, &p); err != nil {
		return "", usage(err)
	}
	change := v1.ProfileChange{Set: p.Fields}
	changed := false
	has := map[string]string{}
	for _, f := range now.Fields {
		if f.Origin != d.name {
			continue
		}
		has[f.Name] = f.Value
		if _, stays := p.Fields[f.Name]; !stays {
			change.Unset, changed = append(change.Unset, f.Name), true
		}
	}
	for name, v := range p.Fields {
		changed = changed || has[name] != v
	}
	if !changed {
		return "unchanged", nil
	}
	what := "configured"
	if now.Revision == 0 {
		what = "created"
	}
	_, err = api.ChangePowerProfile(ctx, d.name, change, now.Revision, dry)
	return what, err
}

// found turns the answer to a look into the revision that the write must meet. A
// partition that only exists because hosts name it has revision 0: not declared yet.
func found(revision int64, err error) (int64, string, error) {
	var p *v1.Problem
	switch {
	case err == nil && revision > 0:
		return revision, "configured", nil
	case err == nil, errors.As(err, &p) && p.Code == v1.CodeNotFound:
		return 0, "created", nil
	}
	return 0, "", err
}

// same compares two specs as they would be stored.
func same[T any](a, b T) bool {
	ya, erra := yaml.Marshal(a)
	yb, errb := yaml.Marshal(b)
	return erra == nil && errb == nil && reflect.DeepEqual(ya, yb)
}

// strict decodes a document in which each field must be known and of its type.
func strict(raw []byte, into any) error {
	err := yaml.UnmarshalStrict(raw, into)
	if typ := (*json.UnmarshalTypeError)(nil); errors.As(err, &typ) && typ.Field != "" {
		field := typ.Field
		if _, inner, embedded := strings.Cut(field, "Spec."); embedded { // the type's name is of no use to who wrote it
			field = inner
		}
		return fmt.Errorf("%s: a %s, allowed is %s", field, typ.Value, shape(typ.Type))
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: json: "))
	}
	return nil
}

// shape says in a document's words what a type is written as.
func shape(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a map"
	case reflect.Pointer:
		return shape(t.Elem())
	}
	return "a number"
}
