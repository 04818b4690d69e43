// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"fmt"
	"strings"
)

// Markdown writes the reference page of all settings, docs/settings.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Settings

Generated from the catalogue; do not edit.

Settings are set with ` + "`holdfast settings set NAME VALUE --scope SCOPE`" + ` at the scopes global, zone/…, pod/…, cluster/… and host/…. The
narrowest scope wins; at one scope an explicit value wins over the scope's preset. A preset sets, at its scope, every
setting that has a figure in the columns *seed* or *fast*, and no other. Live: in effect at once. Next action: what runs
keeps its value.

| setting | default | seed | fast | allowed | scopes | effect | what it does |
|---|---|---|---|---|---|---|---|
`)
	for _, d := range All {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s | %s |\n", d.Name, cell(d.Default), cell(d.Presets[PresetSeed]), cell(d.Presets[PresetFast]),
			d.Allowed(), scopes(d.Scopes), d.Effect, d.Doc)
	}
	b.WriteString("\n## Rules between settings\n\n")
	for _, r := range crossRules {
		fmt.Fprintf(&b, "- `%s`: %s\n", r.name, r.words)
	}
	return b.String()
}

func cell(s string) string {
	if s == "" {
		return " "
	}
	return "`" + s + "`"
}

func scopes(s []string) string {
	if len(s) == len(Scopes) {
		return "all"
	}
	return strings.Join(s, ", ")
}
