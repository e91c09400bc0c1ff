// Renders the chart with Go's own template engine and Helm's function library, for the test that compares what Rust makes of it.
// Reads {"dir": …, "dots": […]} from standard input; writes, per dot, the text of each template by its path.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

type request struct {
	Dir  string                   `json:"dir"`
	Dots []map[string]interface{} `json:"dots"`
}

func main() {
	var wanted request
	check(json.NewDecoder(os.Stdin).Decode(&wanted))
	all := parse(wanted.Dir)
	var out []map[string]string
	for _, dot := range wanted.Dots {
		texts := map[string]string{}
		for _, one := range all.Templates() {
			name := one.Name()
			if !strings.HasPrefix(name, "templates/") || strings.HasPrefix(filepath.Base(name), "_") {
				continue
			}
			var text bytes.Buffer
			check(one.Execute(&text, dot))
			texts[name] = strings.ReplaceAll(text.String(), "<no value>", "")
		}
		out = append(out, texts)
	}
	check(json.NewEncoder(os.Stdout).Encode(out))
}

func parse(dir string) *template.Template {
	all := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	// There is no cluster to look at.
	functions["lookup"] = func(...string) map[string]interface{} { return map[string]interface{}{} }
	functions["include"] = func(name string, dot interface{}) (string, error) {
		var text strings.Builder
		err := all.ExecuteTemplate(&text, name, dot)
		return text.String(), err
	}
	functions["toYaml"] = func(value interface{}) string {
		text, err := yaml.Marshal(value)
		if err != nil {
			return ""
		}
		return strings.TrimSuffix(string(text), "\n")
	}
	functions["fromYamlArray"] = func(text string) []interface{} {
		items := []interface{}{}
		if err := yaml.Unmarshal([]byte(text), &items); err != nil {
			items = []interface{}{err.Error()}
		}
		return items
	}
	all.Funcs(functions)
	check(filepath.Walk(filepath.Join(dir, "templates"), func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		_, err = all.New(name).Parse(string(text))
		return err
	}))
	return all
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
