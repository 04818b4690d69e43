// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding"
	"fmt"
	"reflect"
	"sort"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// RoutesMarkdown is the generated reference of the API (docs/api.md).
func RoutesMarkdown() string {
	var b strings.Builder
	b.WriteString("# Operator API\n\n" +
		"<!-- generated from worker/api/routes.go; do not edit -->\n\n" +
		"JSON over HTTP. Any worker answers; an order about a host is passed on to the worker that owns it, once.\n\n" +
		"- Errors are `application/problem+json` (RFC 9457) with a stable `code`, see below; `field` names the wrong value, `hint` what may be done. Status 503 means that nothing was done, 504 that the outcome is unknown.\n" +
		"- The same as an OpenAPI 3.1 document: [openapi.json](openapi.json), which every worker serves at `/openapi.json`.\n" +
		"- Unknown fields, query parameters and conditions are errors. A body is at most 1 MiB.\n" +
		"- `ETag` is the revision of the declaration. Writes of what is read, changed and written know `If-Match` and `If-None-Match: *`; one that does not hold is 412 with the `ETag` that is there now.\n" +
		"- Every change knows `?dryRun=true`: all is checked, also conditions, and the answer is what would come of it; nothing is written, no device and no agent is asked.\n" +
		"- Every POST knows `Idempotency-Key`: the same request of the same caller with the same key, at any worker, within a day, is answered as it was (`Holdfast-Repeated` says when) and not carried out again. What left no trace (4xx, 503) may be tried again with its key. The secret of a token is in the first answer only.\n" +
		"- Lists come in pages: `limit`, and `after` with the field `next` of the page before.\n" +
		"- `?watch=true` answers with server-sent events (`host` or `event`, `error` as the last) and a comment every 15 s. A watch of events is at least once: after a lost connection send `Last-Event-ID` and drop the ids already seen; 410 `compacted` says that events in between are no longer kept. A watch of hosts begins with all that are there; an id without data says that all up to that revision was told, and with it as `Last-Event-ID` only what changed since is told.\n" +
		"- Who asks is told by a certificate or by `Authorization: Bearer TOKEN`; what that allows is the column role, where admin includes operator and operator includes viewer (docs/security-trust.md). One caller may send `api.rate` requests a second.\n" +
		"- `Holdfast-Actor` names who asks, for the record, on loopback alone.\n\n" +
		"| method | path | role | in | out | what |\n|---|---|---|---|---|---|\n")
	types := map[string]reflect.Type{}
	for _, r := range Routes {
		done, dry := r.Answers()
		out := typeLink(done, types)
		if dry != nil && reflect.TypeOf(dry) != reflect.TypeOf(done) {
			out += " (dry run: " + typeLink(dry, types) + ")"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s | %s |\n", r.Method, r.Path, orDash(roleShown(&r)), typeLink(r.In, types), out, r.Summary)
	}
	b.WriteString("\n## Problems\n\n| code | status | means |\n|---|---|---|\n")
	for _, d := range v1.Codes {
		fmt.Fprintf(&b, "| `%s` | %d | %s |\n", d.Code, d.Status, d.Doc)
	}
	b.WriteString("\n## Parameters\n\nBeside those that every change (`dryRun`) and every POST (`" + keyHeader + "`) has.\n")
	for _, r := range Routes {
		if len(r.Query) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n`%s %s`\n\n", r.Method, r.Path)
		for _, p := range r.Query {
			fmt.Fprintf(&b, "- `%s`: %s", p.Name, p.Doc)
			if p.Header {
				b.WriteString(" (a header)")
			}
			if p.Many {
				b.WriteString("; may be given several times")
			}
			b.WriteByte('\n')
		}
	}
	b.WriteString("\n## Types\n\nFields marked ? are left out when empty. Times are RFC 3339 in UTC.\n")
	writeTypes(&b, types)
	return b.String()
}

// roleShown is empty for what anybody may ask.
func roleShown(r *Route) string {
	if open[r.Path] {
		return ""
	}
	return string(r.Role())
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// typeLink names the type of a value and notes it for the list of types.
func typeLink(v any, types map[string]reflect.Type) string {
	if v == nil {
		return "–"
	}
	t := reflect.TypeOf(v)
	if f, ok := t.FieldByName("Items"); ok && strings.HasPrefix(t.Name(), "List[") {
		return "list of " + typeName(f.Type.Elem(), types)
	}
	return typeName(t, types)
}

func typeName(t reflect.Type, types map[string]reflect.Type) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return typeName(t.Elem(), types)
	case t.PkgPath() == "time":
		return "time"
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return "string"
	case t.Kind() == reflect.Slice:
		return "list of " + typeName(t.Elem(), types)
	case t.Kind() == reflect.Map:
		return "map of " + typeName(t.Key(), types) + " to " + typeName(t.Elem(), types)
	case t.Kind() == reflect.Struct:
		types[t.Name()] = t
		return "[" + t.Name() + "](#" + strings.ToLower(t.Name()) + ")"
	case t.Kind() == reflect.Int64:
		return "int"
	}
	return t.Kind().String()
}

// writeTypes writes all types that are reachable from those given, by name, and empties
// the map.
func writeTypes(b *strings.Builder, types map[string]reflect.Type) {
	done := map[string]string{}
	for len(types) > 0 {
		for name, t := range types {
			delete(types, name)
			if _, ok := done[name]; ok {
				continue
			}
			var s strings.Builder
			fmt.Fprintf(&s, "\n### %s\n\n| field | type |\n|---|---|\n", name)
			for _, f := range reflect.VisibleFields(t) {
				tag, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
				if tag == "-" || tag == "" {
					continue
				}
				mark := ""
				if strings.Contains(opts, "omit") {
					mark = " ?"
				}
				fmt.Fprintf(&s, "| `%s`%s | %s |\n", tag, mark, typeName(f.Type, types))
			}
			done[name] = s.String()
		}
	}
	names := make([]string, 0, len(done))
	for n := range done {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		b.WriteString(done[n])
	}
}
