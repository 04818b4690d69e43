// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unicode"
)

const (
	propertiesFile = "agent.properties"
	hostsKey       = "hosts"
	// ownerFirst names how the list is sorted: the worker that owns the host comes first.
	ownerFirst = "owner"
)

// properties are the lines of a file of key=value pairs; lines that begin with '#' or '!'
// are comments. Lines that nobody sets are kept as they are.
type properties struct {
	lines []string
	at    map[string]int // line of each key
}

// parseProperties names the file and the line of whatever it does not understand.
func parseProperties(name string, content []byte) (*properties, error) {
	p := &properties{at: map[string]int{}}
	if len(content) == 0 {
		return p, nil
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(content), "\n"), "\n") {
		line = strings.TrimRight(line, "\r")
		p.lines = append(p.lines, line)
		if t := strings.TrimSpace(line); t == "" || t[0] == '#' || t[0] == '!' {
			continue
		}
		key, _, found := strings.Cut(line, "=")
		key = strings.TrimSpace(key)
		switch before, twice := p.at[key]; {
		case strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }):
			return nil, fmt.Errorf("%s:%d: line has a control character", name, i+1)
		case !found || key == "" || strings.ContainsFunc(key, unicode.IsSpace):
			return nil, fmt.Errorf("%s:%d: %q is not key=value", name, i+1, line)
		case twice:
			return nil, fmt.Errorf("%s:%d: key %q is on line %d already", name, i+1, key, before+1)
		}
		p.at[key] = i
	}
	return p, nil
}

// get returns the value of a key, without the blanks around it.
func (p *properties) get(key string) (string, bool) {
	i, found := p.at[key]
	if !found {
		return "", false
	}
	_, value, _ := strings.Cut(p.lines[i], "=")
	return strings.TrimSpace(value), true
}

// set gives a key a value that has no line breaks.
func (p *properties) set(key, value string) {
	i, found := p.at[key]
	if !found {
		i = len(p.lines)
		p.at[key] = i
		p.lines = append(p.lines, "")
	}
	p.lines[i] = key + "=" + value
}

func (p *properties) bytes() []byte {
	if len(p.lines) == 0 {
		return nil
	}
	return []byte(strings.Join(p.lines, "\n") + "\n")
}

// parseHosts reads "a:1,b:2@owner".
func parseHosts(value string) (addresses []string, err error) {
	list, _, _ := strings.Cut(value, "@")
	for _, address := range strings.Split(list, ",") {
		address = strings.TrimSpace(address)
		if _, err := splitAddress(address); err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

// workerList is the ordered list of workers to dial: the one last sent, kept in the
// properties file, then those of the configuration that are not on it, so that a list
// that has gone stale never cuts the agent off.
type workerList struct {
	file       string
	configured []string

	mu   sync.Mutex
	sent []string
}

// loadWorkers reads the kept list.
func loadWorkers(dir string, configured []string) (*workerList, error) {
	l := &workerList{file: filepath.Join(dir, propertiesFile), configured: configured}
	p, err := l.read()
	if err != nil {
		return nil, err
	}
	if value, found := p.get(hostsKey); found && value != "" {
		if l.sent, err = parseHosts(value); err != nil {
			return nil, fmt.Errorf("%s:%d: %s: %w", l.file, p.at[hostsKey]+1, hostsKey, err)
		}
	}
	return l, nil
}

func (l *workerList) read() (*properties, error) {
	content, err := readState(l.file)
	if err != nil {
		return nil, fmt.Errorf("read properties: %w", err)
	}
	return parseProperties(l.file, content)
}

// addresses returns the workers to dial, in order, none twice.
func (l *workerList) addresses() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, a := range slices.Concat(l.sent, l.configured) {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// update takes over a list that a worker sent and keeps it in the file; other keys are
// left as they are. An error means that the list is used but not kept, or, when an
// address on it is bad, not used.
func (l *workerList) update(sent []string) error {
	for _, address := range sent {
		if _, err := splitAddress(address); err != nil {
			return fmt.Errorf("update worker list: %w", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(sent) == 0 || slices.Equal(sent, l.sent) {
		return nil
	}
	l.sent = slices.Clone(sent)
	p, err := l.read() // anew: an operator may have edited other keys
	if err != nil {
		return fmt.Errorf("keep worker list: %w", err)
	}
	p.set(hostsKey, strings.Join(sent, ",")+"@"+ownerFirst)
	if err := writeState(l.file, p.bytes()); err != nil {
		return fmt.Errorf("keep worker list: %w", err)
	}
	return nil
}
